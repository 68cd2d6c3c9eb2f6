"""The map of one head's attention, token by token, with the audio folded to time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

import lens_audio as la
from lens_audio.plots import token_attention

SIZES = Sizes()


class Words:
    """A tokenizer that only decodes."""

    def decode(self, ids: list[int]) -> str:
        return f"<b>{ids[0]}</b>"


def prompt_of(texts: list[int], clips: list[list[int]]) -> la.AudioPrompt:
    return replace(make_prompt(SIZES, Layout(texts, clips)), tokenizer=Words())


def pattern_of(prompt: la.AudioPrompt, row: int = 0) -> torch.Tensor:
    return la.analysis.head_pattern(hooked_model(SIZES), prompt, 1, 2)[row]


def test_the_pattern_is_the_cached_one() -> None:
    prompt, model = prompt_of([6, 8], [[23], [23]]), hooked_model(SIZES)
    _, cache = model.run_with_cache(prompt)
    found = la.analysis.head_pattern(model, prompt, 1, 2)
    torch.testing.assert_close(found, cache["pattern", 1][:, 2])


def test_a_head_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="2 layers x 4 heads"):
        la.analysis.head_pattern(hooked_model(SIZES), prompt_of([6], [[23]]), 2, 0)


@pytest.mark.parametrize("windows", [1, 2, 100])
def test_every_token_attends_with_all_its_weight(windows: int) -> None:
    prompt = prompt_of([6], [[33]])
    z = token_attention(pattern_of(prompt), prompt, windows=windows, audio="sum").data[0].z
    np.testing.assert_allclose(np.nansum(z, axis=1), 100, rtol=1e-4)


def test_the_audio_is_folded_into_windows_of_seconds() -> None:
    prompt = prompt_of([6], [[33]])
    heatmap = token_attention(pattern_of(prompt), prompt, windows=3).data[0]
    audio = [name for name in heatmap.x if name.endswith(" s")]
    assert audio == ["0.00–0.12 s", "0.12–0.24 s", "0.24–0.33 s"]
    assert len(heatmap.x) == int((~prompt.audio_mask).sum()) + 3


def test_a_window_is_the_sum_of_its_keys() -> None:
    prompt = prompt_of([6], [[33]])
    pattern = pattern_of(prompt)
    heatmap = token_attention(pattern, prompt, windows=1, audio="sum").data[0]
    column = list(heatmap.x).index("0.00–0.33 s")
    expected = 100 * pattern[-1, prompt.audio_mask[0]].sum()
    assert heatmap.z[-1, column] == pytest.approx(float(expected), rel=1e-5)


def test_an_audio_column_is_by_default_the_mean_of_its_keys_and_the_figure_says_so() -> None:
    prompt = prompt_of([6], [[33]])
    pattern = pattern_of(prompt)
    figure = token_attention(pattern, prompt, windows=3)
    heatmap = figure.data[0]
    keys = prompt.audio_positions(0)[:3]  # 0.00 to 0.12 s
    column = list(heatmap.x).index("0.00–0.12 s")
    expected = 100 * pattern[-1, keys].mean()
    assert heatmap.z[-1, column] == pytest.approx(float(expected), rel=1e-5)
    said = figure.layout.annotations[0].text
    assert "the mean of 3 audio tokens" in said
    largest = np.nanmax(heatmap.z)
    assert f"colours end at {heatmap.zmax:.3g} % (98% of cells; largest {largest:.3g} %)" in said
    assert heatmap.colorbar.ticktext[-1] == f"≥ {heatmap.zmax:.3g}"
    assert heatmap.colorbar.title.text == "attention per token (%)"
    with pytest.raises(ValueError, match="'mean' or the 'sum'"):
        token_attention(pattern, prompt, audio="median")


def test_what_comes_later_is_blank() -> None:
    prompt = prompt_of([6], [[]])
    z = token_attention(pattern_of(prompt), prompt).data[0].z
    np.testing.assert_array_equal(np.isnan(z), ~np.tri(6, dtype=bool))


def test_padding_is_left_out() -> None:
    prompt = prompt_of([6, 9], [[23], [23]])
    heatmap = token_attention(pattern_of(prompt), prompt, windows=1).data[0]
    text_tokens = prompt.attention_mask[0] & ~prompt.audio_mask[0]
    assert not prompt.attention_mask[0].all()
    assert len(heatmap.x) == int(text_tokens.sum()) + 1


def test_the_clips_of_a_prompt_are_told_apart() -> None:
    prompt = prompt_of([8], [[23, 33]])
    names = token_attention(pattern_of(prompt), prompt, windows=1).data[0].x
    assert [n for n in names if n.endswith(" s")] == ["clip 0, 0.00–0.23 s", "clip 1, 0.00–0.33 s"]


def test_tokens_are_shown_as_text() -> None:
    prompt = prompt_of([6], [[]])
    assert "<b>" not in token_attention(pattern_of(prompt), prompt).to_json()


@pytest.mark.parametrize(("size", "windows", "message"), [(5, 2, "5"), (6, 0, "at least one")])
def test_what_does_not_fit_is_refused(size: int, windows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_attention(torch.zeros(size, size), prompt_of([6], [[]]), windows=windows)
