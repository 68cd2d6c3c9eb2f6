"""Audio attention is the audio part of the pattern's row, without the pattern."""

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.analysis import audio_attention, audio_mass, entropy, peak_time, top_heads


def pattern_rows(
    model: HookedAudioTransformer, prompt: AudioPrompt, query: int
) -> list[torch.Tensor]:
    """For each row of the batch, the cached pattern [layer, head, audio token] at the query."""
    _, cache = model.run_with_cache(prompt, names_filter=lambda name: name.endswith("hook_pattern"))
    patterns = torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)], 1)
    return [
        pattern[:, :, query, prompt.audio_positions(row)] for row, pattern in enumerate(patterns)
    ]


def assert_equals_pattern(
    attention: torch.Tensor, model: HookedAudioTransformer, prompt: AudioPrompt, query: int
) -> None:
    for row, expected in enumerate(pattern_rows(model, prompt, query)):
        n_tokens = expected.shape[-1]
        torch.testing.assert_close(attention[row, ..., :n_tokens], expected, atol=1e-5, rtol=0)
        assert not attention[row, ..., n_tokens:].any()


@pytest.mark.parametrize("seed", range(16))
def test_equals_the_row_of_the_pattern(seed: int) -> None:
    """Grouped keys, left padding, no, one and two clips a row, odd sizes."""
    sizes = Sizes.random(seed)
    layout = Layout.random(seed, max_frames=2 * sizes.n_frames)
    layout = Layout(layout.n_text, layout.clips, "left")
    model, prompt = hooked_model(sizes, seed), make_prompt(sizes, layout, seed)
    attention = audio_attention(model, prompt)
    assert attention.shape[:3] == (len(prompt), sizes.n_layers, sizes.n_heads)
    assert_equals_pattern(attention, model, prompt, -1)


def test_several_queries_add_a_dimension() -> None:
    layout = Layout([9, 5], [[30, 11], [23]])
    model, prompt = hooked_model(), make_prompt(layout=layout)
    n_pos = prompt.tokens.shape[1]
    queries = [n_pos - 2, -1, -3]
    attention = audio_attention(model, prompt, queries)
    assert attention.shape[3] == 3
    for i, query in enumerate(queries):
        assert_equals_pattern(attention[:, :, :, i], model, prompt, query)


def test_a_query_before_the_audio_reads_none_of_it() -> None:
    model, prompt = hooked_model(), make_prompt()
    first = int(prompt.audio_positions(0)[0])
    assert not audio_attention(model, prompt, first - 1).any()
    within = audio_attention(model, prompt, first + 1)
    assert within[..., :2].all()
    assert not within[..., 2:].any()


def test_right_padding_is_not_read() -> None:
    layout = Layout([9, 4], [[30], [23]], "right")
    model, prompt = hooked_model(), make_prompt(layout=layout)
    query = int(prompt.attention_mask.sum(1).min()) - 1
    assert_equals_pattern(audio_attention(model, prompt, query), model, prompt, query)
    with pytest.raises(ValueError, match=r"at padding in rows \[1\]"):
        audio_attention(model, prompt)


def test_the_last_query_is_each_rows_own() -> None:
    layout = Layout([9, 4], [[30], [23]], "right")
    model, prompt = hooked_model(), make_prompt(layout=layout)
    attention = audio_attention(model, prompt, "last")
    last = prompt.attention_mask.sum(1) - 1
    for row, query in enumerate(last.tolist()):
        expected = pattern_rows(model, prompt, query)[row]
        found = attention[row, ..., : expected.shape[-1]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    by_mask = torch.nn.functional.one_hot(last, prompt.tokens.shape[1]).bool()
    assert torch.equal(audio_attention(model, prompt, by_mask)[:, :, :, 0], attention)


@pytest.mark.parametrize("query", [1000, -1000, [0, 1000], []])
def test_refuses_queries_that_do_not_exist(query: int | list[int]) -> None:
    model, prompt = hooked_model(), make_prompt()
    with pytest.raises(ValueError, match=r"position -?1000 does not exist|empty selection of pos"):
        audio_attention(model, prompt, query)


def test_text_alone_has_no_audio_tokens() -> None:
    model, prompt = hooked_model(), make_prompt(layout=Layout([7], [[]]))
    attention = audio_attention(model, prompt)
    assert attention.shape == (1, 2, 4, 0)
    assert not audio_mass(attention).any()


def test_no_pattern_is_made_and_no_hook_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = hooked_model(), make_prompt()
    for block in model.blocks:
        monkeypatch.setattr(block.attn, "_z_from_pattern", None)
    audio_attention(model, prompt)
    assert not any(hook.has_hooks() for hook in model.hook_dict.values())


def test_hooks_of_the_user_act() -> None:
    model, prompt = hooked_model(), make_prompt()
    before = audio_attention(model, prompt)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda resid, hook: resid * 0)]):
        silent = audio_attention(model, prompt)
        _, cache = model.run_with_cache(prompt, names_filter="blocks.1.attn.hook_pattern")
    assert not torch.allclose(before[:, 1], silent[:, 1])
    expected = cache["pattern", 1][0, :, -1, prompt.audio_positions(0)]
    torch.testing.assert_close(silent[0, 1], expected, atol=1e-5, rtol=0)


def test_bfloat16_gives_float32_weights() -> None:
    model, prompt = hooked_model().to(torch.bfloat16), make_prompt()
    mass = audio_mass(audio_attention(model, prompt))
    assert mass.dtype == torch.float32
    assert (mass <= 1).all()


def test_mass_is_the_sum_over_audio_tokens() -> None:
    attention = torch.tensor([[[0.25, 0.25, 0.0], [0.0, 0.0, 0.0]]])
    assert audio_mass(attention).tolist() == [[0.5, 0.0]]


def test_top_heads_come_strongest_first() -> None:
    mass = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    assert top_heads(mass, 3) == [(0, 1), (1, 0), (1, 1)]
    for k in (0, 5):
        with pytest.raises(ValueError, match="2 layers x 2 heads = 4"):
            top_heads(mass, k)


def test_peak_time_is_the_middle_of_the_strongest_token() -> None:
    times = torch.tensor([[0.0, 0.04], [0.04, 0.08], [0.08, 0.1]])
    attention = torch.tensor([[0.1, 0.3, 0.2], [0.0, 0.1, 0.4]])
    torch.testing.assert_close(peak_time(attention, times), torch.tensor([0.06, 0.09]))


def test_entropy_in_bits() -> None:
    attention = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(attention), torch.tensor([2.0, 0.0, 0.0]))
