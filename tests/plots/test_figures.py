"""Figures: what is drawn, on which axes, with which units and hover texts."""

from dataclasses import replace
from html import escape
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from models import Layout, Sizes, make_prompt

from lens_audio import AudioPrompt
from lens_audio.plots import (
    attention_over_time,
    choice_probabilities,
    head_map,
    listening_over_tokens,
)
from lens_audio.plots.report import figure_html

RATE = 16000


def prompt_with_waveforms(clips: list[list[int]], sizes: Sizes = Sizes()) -> AudioPrompt:  # noqa: B008
    """A prompt whose clips have so many mel frames of 10 ms, with noise as their waveforms."""
    prompt = make_prompt(sizes, Layout([7] * len(clips), clips))
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-1, 1, frames * 160).astype(np.float32) for row in clips for frames in row]
    return replace(prompt, waveforms=waves)


def attention_to(prompt: AudioPrompt, n_heads: int, row: int = 0) -> torch.Tensor:
    n_tokens = len(prompt.audio_positions(row))
    return torch.arange(n_heads * n_tokens).view(n_heads, n_tokens) / 1000


def test_head_map_shows_every_value_and_outlines_heads() -> None:
    values = torch.rand(3, 5)
    figure = head_map(values, "mass", outlined=[(2, 4)])
    heatmap = figure.data[0]
    np.testing.assert_array_equal(heatmap.z, values.numpy())
    assert (heatmap.zmin, heatmap.zmax) == (0, float(values.max()))
    assert figure.layout.xaxis.title.text == "head"
    assert figure.layout.yaxis.title.text == "layer"
    (shape,) = figure.layout.shapes
    assert (shape.x0, shape.x1, shape.y0, shape.y1) == (3.5, 4.5, 1.5, 2.5)
    assert "layer %{y}, head %{x}<br>mass %{z" in heatmap.hovertemplate


def test_signed_head_map_is_centred_at_zero() -> None:
    heatmap = head_map(torch.tensor([[0.1, -0.4]]), signed=True).data[0]
    assert heatmap.zmin == -heatmap.zmax == pytest.approx(-0.4)


def test_a_head_without_a_number_leaves_the_scale_centred() -> None:
    heatmap = head_map(torch.tensor([[torch.nan, 0.5], [-0.2, 0.1]]), signed=True).data[0]
    assert (heatmap.zmin, heatmap.zmax) == (-0.5, 0.5)


def test_quotes_are_shown_as_they_are() -> None:
    figure = choice_probabilities(['say "hi"', "<b>"], [0.5, 0.5], [0.5, 0.5])
    assert list(figure.layout.yaxis.ticktext) == ['say "hi"', "&lt;b&gt;"]


@pytest.mark.parametrize("n", range(8, 14))
def test_tokens_are_cut_before_they_are_escaped(n: int) -> None:
    token = "a" * n + "<&><&><&>"
    (shown,) = listening_over_tokens(np.ones((1, 1)), [token], ["L0H0"]).layout.xaxis.ticktext
    assert shown == escape(token[:13] + "…")


def test_the_title_of_the_listening_score_has_room_beside_the_longest_tokens() -> None:
    figure = listening_over_tokens(np.ones((9, 1)), ["m" * 20] * 9, ["L0H0"])
    layout, letter = figure.layout, 0.64 * figure.layout.font.size
    labels = letter * max(map(len, layout.xaxis.ticktext))
    room = layout.height - layout.margin.t - layout.margin.b - labels
    lines = layout.yaxis.title.text.split("<br>")
    assert 1.2 * letter * max(map(len, lines)) < room
    assert 1.2 * 1.3 * layout.font.size * len(lines) < layout.margin.l


def test_head_map_of_nothing_but_zeros_is_drawn() -> None:
    assert head_map(torch.zeros(2, 2)).data[0].zmax == 1


def test_time_figure_has_one_axis_in_seconds() -> None:
    prompt = prompt_with_waveforms([[33]])
    figure = attention_over_time(prompt, attention_to(prompt, 2), [(1, 3), (0, 2)], span=(0.1, 0.2))
    assert {trace.xaxis for trace in figure.data} <= {None, "x"}
    assert figure.layout.xaxis.title.text == "time (s)"
    assert figure.layout.xaxis.range == (0, pytest.approx(0.33))
    assert list(figure.data[0].y) == ["L1H3", "L0H2"]
    assert figure.layout.yaxis2.title.text == "frequency (kHz)"
    assert figure.layout.yaxis3.title.text == "amplitude"
    assert [shape.x0 for shape in figure.layout.shapes] == [0.1, 0.2]
    tops = [figure.layout[name].domain for name in ("yaxis", "yaxis2", "yaxis3")]
    assert all(below[1] < above[0] for below, above in pairwise(tops))


def test_attention_lies_at_the_times_of_its_tokens() -> None:
    prompt = prompt_with_waveforms([[33]])
    attention = attention_to(prompt, 2)
    heatmap = attention_over_time(prompt, attention, [(0, 0), (0, 1)]).data[0]
    times = prompt.audio_times(0)
    np.testing.assert_allclose(heatmap.x, [*times[:, 0], times[-1, 1]])
    np.testing.assert_allclose(heatmap.z, 100 * attention)
    assert heatmap.customdata[1, 3, 0] == pytest.approx(0.12)
    shares = heatmap.customdata[1, :, 2]
    assert shares.sum() == pytest.approx(100, rel=1e-4)


def test_one_clip_of_several_is_shown() -> None:
    prompt = prompt_with_waveforms([[12], [20, 33]])
    attention = attention_to(prompt, 1, row=1)
    figure = attention_over_time(prompt, attention, [(0, 0)], row=1, clip=1)
    np.testing.assert_allclose(figure.data[0].z, 100 * attention[:, 5:])
    assert figure.layout.xaxis.range[1] == pytest.approx(0.33)


def test_long_recordings_are_drawn_by_their_extremes() -> None:
    prompt = prompt_with_waveforms([[3000]], Sizes(n_frames=1500))
    wave = prompt.waveforms[0]
    wave[123_456] = 3.0
    figure = attention_over_time(prompt, attention_to(prompt, 1), [(0, 0)])
    mel, low, high = figure.data[1:]
    assert len(high.y) <= 1000
    assert max(high.y) == 3.0
    assert min(low.y) == wave.min()
    assert mel.z.shape == (8, 1000)
    assert mel.x0 + 999 * mel.dx == pytest.approx(30 - mel.dx / 2)
    assert len(figure.to_json()) < 2e6


def test_a_thousand_heads_over_half_a_minute_fit_a_page() -> None:
    prompt = prompt_with_waveforms([[3000]], Sizes(n_frames=1500, n_mels=128))
    heads = [divmod(i, 32) for i in range(1024)]
    attention = torch.rand(1024, 750)
    figure = attention_over_time(prompt, attention, heads)
    shown = figure.data[0]
    assert shown.z.shape == (1024, 108)
    np.testing.assert_allclose(shown.z.sum(1), 100 * attention.sum(1), rtol=1e-4)
    assert tuple(shown.customdata[3, 1, :2]) == pytest.approx((0.28, 0.56))
    assert len(figure_html(figure, "time")) < 5e6
    assert figure.layout.height < 1600


def test_a_large_head_map_fits_a_page() -> None:
    assert len(figure_html(head_map(torch.rand(32, 32)), "map")) < 1e5


def test_spectrogram_is_the_models_own_in_decibels() -> None:
    prompt = prompt_with_waveforms([[33]])
    mel = attention_over_time(prompt, attention_to(prompt, 1), [(0, 0)]).data[1]
    np.testing.assert_allclose(mel.z, 40 * (prompt.mel[0, :, :33] - 1), rtol=1e-5)
    assert mel.x0 == pytest.approx(0.005)


def test_a_prompt_without_waveforms_shows_the_rest() -> None:
    prompt = make_prompt()
    figure = attention_over_time(prompt, attention_to(prompt, 1), [(0, 0)])
    assert [type(trace) for trace in figure.data] == [go.Heatmap, go.Heatmap]


@pytest.mark.parametrize(
    ("clips", "arguments", "message"),
    [
        ([[]], {"heads": [(0, 0)]}, "there is no clip 0"),
        ([[33]], {"heads": [(0, 0)], "clip": 1}, "there is no clip 1"),
        ([[33]], {"heads": [(0, 0), (0, 1)]}, "2 heads, but 1 rows"),
    ],
)
def test_what_does_not_fit_is_refused(clips: list, arguments: dict, message: str) -> None:
    prompt = make_prompt(layout=Layout([7], clips))
    with pytest.raises(ValueError, match=message):
        attention_over_time(prompt, torch.zeros(1, 8), **arguments)


def test_attention_to_too_few_tokens_is_refused() -> None:
    prompt = make_prompt()
    with pytest.raises(ValueError, match="audio tokens, but attention to 2"):
        attention_over_time(prompt, torch.zeros(1, 2), [(0, 0)])


def test_choices_with_and_without_the_sound() -> None:
    figure = choice_probabilities(["dog", "<b>"], [0.9, 0.1], [0.4, 0.6], answer="dog")
    heard, silent = figure.data
    assert list(heard.x) == [0.9, 0.1]
    assert list(silent.x) == [0.4, 0.6]
    assert heard.orientation == "h"
    assert heard.marker.color != silent.marker.color
    assert list(figure.layout.yaxis.ticktext) == ["✓ dog", "&lt;b&gt;"]
    assert list(heard.text) == ["90%", "10%"]
    with pytest.raises(ValueError, match="2 choices, but 1 probabilities"):
        choice_probabilities(["a", "b"], [1.0], [0.5, 0.5])


def test_figures_have_no_background_of_their_own() -> None:
    figure = head_map(torch.rand(2, 2))
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
