"""Knocking out heads is knocking out their attention to the audio."""

import pytest
import torch

from lens_audio import hooks
from lens_audio.data.knock_out import choice_probs_without
from lens_audio.steering import knock_out
from lens_audio.steering.knockout import random_heads

HEADS = [(0, 1), (0, 2), (2, 3), (3, 7)]


@pytest.mark.parametrize("queries", ["text", "last"])
def test_equals_knock_out_hooks_over_the_whole_prompt(model, items, queries) -> None:
    some = [*items[-4:], items[0]]
    prompt = model.prompt([i.question for i in some], audio=[i.audio for i in some])
    tokens = torch.arange(20, 24).expand(len(some), -1)
    found = choice_probs_without(model, prompt, [[], HEADS], tokens, queries)
    readers = prompt.attention_mask & ~prompt.audio_mask
    cut = hooks.knock_out_attention(
        heads=HEADS, queries="last" if queries == "last" else readers, keys=prompt.audio_mask
    )
    for row, fwd_hooks in zip(found, ([], cut), strict=True):
        logits = model.run_with_hooks(prompt, fwd_hooks=fwd_hooks)[:, -1]
        expected = logits.gather(1, tokens).softmax(-1)
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_text_only_items_lose_nothing(model, items) -> None:
    prompt = model.prompt([i.question for i in items[:2]])
    tokens = torch.arange(20, 24).expand(2, -1)
    found = choice_probs_without(model, prompt, [[], HEADS], tokens, "text")
    torch.testing.assert_close(found[0], found[1])


def test_result_holds_every_cut_of_every_item(model, items) -> None:
    found = knock_out(model, items[:6], HEADS, n_draws=3, batch_size=4, verbose=False)
    assert found.correct.shape == found.probs.shape == (5, 6)
    assert all(len(draw) == 4 and not set(draw) & set(HEADS) for draw in found.draws)
    low, high = found.drop_difference.low, found.drop_difference.high
    assert low <= found.drop_difference.value <= high
    again = knock_out(model, items[:6], HEADS, n_draws=3, batch_size=6, verbose=False)
    assert again.draws == found.draws
    assert torch.equal(again.correct, found.correct)


def test_refuses_heads_that_do_not_exist_and_too_many_to_draw(model, items) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        knock_out(model, items[:2], [(7, 7)])
    with pytest.raises(ValueError, match="'text' or 'last'"):
        knock_out(model, items[:2], HEADS, queries="all")
    with pytest.raises(ValueError, match="cannot draw 5 random heads: 4 are left"):
        random_heads(2, 4, 5, 3, seed=0, but=[(0, 0), (0, 1), (1, 0), (1, 1)])
    with pytest.raises(ValueError, match="n_draws"):
        random_heads(2, 4, 2, 0, seed=0)
