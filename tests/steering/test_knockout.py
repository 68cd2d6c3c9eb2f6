"""Knocking out heads is knocking out their attention to the audio."""

import pytest
import torch

from lens_audio import hooks
from lens_audio.data.knock_out import choice_probs_without
from lens_audio.sites import every_head
from lens_audio.steering import KnockOut, find_backups, knock_out, knockout
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
    assert found.correct.shape == found.probs.shape == (7, 6)
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


def test_rows_are_the_specialists_all_others_and_all_heads(model, items) -> None:
    some = items[:4]
    found = knock_out(model, some, HEADS, n_draws=2, verbose=False)
    others = [
        head for head in every_head(model.cfg.n_layers, model.cfg.n_heads) if head not in HEADS
    ]
    cuts = [[], HEADS, others, every_head(model.cfg.n_layers, model.cfg.n_heads), *found.draws]
    correct, probs = knockout.right_answers_without(model, some, cuts, verbose=False)
    torch.testing.assert_close(found.probs, probs)
    assert found.all_but.value == float(correct[2].double().mean())
    assert found.all.value == float(correct[3].double().mean())
    assert list(found.probabilities) == list(found.accuracies)
    assert found.probabilities["all heads"].value == pytest.approx(float(probs[3].mean()))


def test_below_the_ceiling_are_the_items_that_the_whole_model_is_less_sure_of() -> None:
    probs = torch.tensor([[0.999, 0.9, 0.5]] + [[0.9, 0.2, 0.1]] * 5)
    found = KnockOut([(0, 0)], [[(0, 1)]] * 2, probs > 0.5, probs).below_ceiling()
    assert torch.equal(found.probs, probs[:, 1:])
    assert torch.equal(found.correct, (probs > 0.5)[:, 1:])
    with pytest.raises(ValueError, match=r"0 of 2 items are below a ceiling of 0\.1"):
        found.below_ceiling(0.1)


BACKED_UP, BACKUP, SECOND = (0, 1), (2, 5), (3, 2)  # of hand-made answers


def hand_made(model, items, cuts, **options):
    """The answer is lost with three heads; the second and third read where those before are deaf."""
    probs = []
    for cut in map(set, cuts):
        p = 0.9
        if BACKED_UP in cut:
            p = 0.8
            if BACKUP in cut:
                p = 0.5 if SECOND not in cut else 0.26
            elif SECOND in cut:
                p = 0.7
        probs.append([p if len(cut) < 32 else 0.25] * len(items))
    found = torch.tensor(probs)
    return found > 0.5, found


@pytest.mark.parametrize(
    ("options", "backups", "complete"),
    [({}, [BACKUP, SECOND], True), ({"tolerance": 0.3}, [BACKUP], True),
     ({"most": 1}, [BACKUP], False), ({"tolerance": 0.6}, [], True)],
)  # fmt: skip
def test_backups_are_found_one_after_another(
    model, items, monkeypatch, options, backups, complete
) -> None:
    monkeypatch.setattr(knockout, "right_answers_without", hand_made)
    found = find_backups(model, items[:2], [BACKED_UP], verbose=False, **options)
    assert (found.backups, found.complete) == (backups, complete)
    assert found.probs == pytest.approx([0.8, 0.5, 0.26][: len(backups) + 1])
    assert (found.whole, found.deaf) == (pytest.approx(0.9), pytest.approx(0.25))


def test_without_heads_and_backups_no_audio_reaches_the_answer(model, items) -> None:
    all_but_one = [
        head for head in every_head(model.cfg.n_layers, model.cfg.n_heads) if head != (1, 6)
    ]
    found = find_backups(model, items[:3], all_but_one, tolerance=1e-4, verbose=False)
    assert found.backups in ([], [(1, 6)])
    assert found.probs[-1] == pytest.approx(found.deaf, abs=1e-4)
