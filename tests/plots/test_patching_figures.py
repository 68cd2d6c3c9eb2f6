"""Figures of sweeps and steering: axes, hover texts, zero in the middle, undefined cells."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.plots import (
    attribution_by_source,
    logit_lens_table,
    patching_heatmap,
    score_distributions,
    steering_curve,
)

WINDOWS = ["0.00-0.50 s", "0.50-1.00 s", "1.00-1.30 s"]


def sweep(
    base: float = -1.0, source: float = 3.0, seed: int = 0, **axes: Sequence[str]
) -> PatchingResult:
    """A random sweep over these axes, of two examples."""
    generator = torch.Generator().manual_seed(seed)
    shape = [len(labels) for labels in axes.values()]
    values = base + torch.rand(1, *shape, 2, generator=generator)
    labels = {name: list(entries) for name, entries in axes.items()}
    return PatchingResult(
        values,
        {"metric": ["logit difference"], **labels, "example": ["0", "1"]},
        torch.full((1, 2), base),
        torch.full((1, 2), source),
        {"site": "z", "direction": "denoise"},
    )


LAYERS, HEADS = ["0", "1"], ["0", "1", "2"]


def test_layer_by_head_shows_the_change_from_the_base_run_around_zero() -> None:
    result = sweep(layer=LAYERS, head=HEADS)
    figure = result.plot()
    (heatmap,) = figure.data
    change = result.mean() + 1
    np.testing.assert_allclose(heatmap.z, change, rtol=1e-5)
    assert heatmap.zmax == -heatmap.zmin == pytest.approx(float(change.max()))
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    assert heatmap.hovertext[1][2] == "layer 1, head 2"
    for part in (
        "logit difference",
        "base (corrupted run): -1",
        "source (clean run): 3",
        "recovery",
    ):
        assert part in heatmap.hovertemplate
    np.testing.assert_allclose(heatmap.customdata[..., 0], result.mean(), rtol=1e-5)
    np.testing.assert_allclose(heatmap.customdata[..., 2], result.recovery(), rtol=1e-5)


def test_recovery_marks_nothing_and_all() -> None:
    (heatmap,) = patching_heatmap(sweep(source=0.0, layer=LAYERS, head=HEADS), recovery=True).data
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)
    marks = dict(zip(heatmap.colorbar.tickvals, heatmap.colorbar.ticktext, strict=True))
    assert marks[0] == "0: nothing"
    assert marks[1] == "1: all of it"


def small(largest: float) -> PatchingResult:
    """Recoveries of at most this."""
    result = sweep(base=0.0, source=1.0, layer=LAYERS, head=HEADS)
    result.values *= largest / result.mean().max()
    return result


def test_small_recoveries_stay_pale_until_the_button_zooms_and_says_how_far() -> None:
    figure = patching_heatmap(small(0.0064), recovery=True)
    (heatmap,) = figure.data
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)
    assert "zoomed" not in heatmap.colorbar.title.text
    assert max(text for row in heatmap.text for text in row) == "0.01"
    ((button,),) = (menu.buttons for menu in figure.layout.updatemenus)
    zoomed, back = button.args[0], button.args2[0]
    assert zoomed["zmax"] == -zoomed["zmin"] == pytest.approx(0.0064)
    assert zoomed["colorbar.title.text"].startswith("<b>zoomed × 156</b>")
    assert max(text for row in zoomed["text"][0] for text in row) == "0.0064"
    assert (back["zmax"], back["text"][0]) == (1, [list(row) for row in heatmap.text])
    assert figure.layout.updatemenus[0].active == -1  # so that the first press is the first one
    opened = patching_heatmap(small(0.0064), recovery=True, zoom=True).data[0]
    assert opened.zmax == zoomed["zmax"]
    assert opened.colorbar.title.text == zoomed["colorbar.title.text"]


def test_figures_beside_each_other_have_one_scale() -> None:
    pair = [small(0.2), small(0.01)]
    figures = [patching_heatmap(one, recovery=True, beside=pair, zoom=True) for one in pair]
    assert [f.data[0].zmax for f in figures] == pytest.approx([0.2, 0.2])
    pair[0] = small(1.5)
    figures = [patching_heatmap(one, recovery=True, beside=pair) for one in pair]
    assert [f.data[0].zmax for f in figures] == pytest.approx([1.5, 1.5])
    assert not figures[0].layout.updatemenus


def test_a_number_too_small_for_its_digits_has_no_minus() -> None:
    result = small(0.5)
    result.values[0, 0, 0] = -0.00008
    assert patching_heatmap(result, recovery=True).data[0].text[0][0] == "0.00"


def test_time_windows_are_an_axis_in_seconds() -> None:
    figure = sweep(layer=LAYERS, group=WINDOWS).plot()
    assert list(figure.data[0].x) == [0.0, 0.5, 1.0, 1.3]
    assert figure.layout.xaxis.title.text == "time (s)"
    assert figure.layout.xaxis.range == (0.0, 1.3)
    assert figure.data[0].hovertext[0][2] == "layer 0, 1.00-1.30 s"


def test_a_window_much_shorter_than_the_others_holds_no_number() -> None:
    windows = [*WINDOWS[:2], "1.00-1.10 s"]
    result = sweep(layer=LAYERS, group=windows)
    result.values[0, :, 1:] = torch.nan
    values, grey = result.plot().data
    assert [bool(text) for text in values.text[0]] == [True, False, False]
    assert list(grey.text[0]) == ["", "n/a", ""]


def test_encoder_frames_are_times_too() -> None:
    figure = sweep(layer=LAYERS, position=["0.00 s", "0.02 s", "0.04 s"]).plot()
    np.testing.assert_allclose(figure.data[0].x, [0, 0.02, 0.04, 0.06])


def test_positions_carry_their_tokens() -> None:
    result = sweep(layer=LAYERS, position=HEADS)
    figure = patching_heatmap(result, labels=["What", " <b>", " is"])
    assert list(figure.layout.xaxis.ticktext) == ["What", " &lt;b&gt;", " is"]
    assert figure.data[0].hovertext[0][1] == "layer 0, position  &lt;b&gt;"
    with pytest.raises(ValueError, match="2 labels for 3 positions"):
        patching_heatmap(result, labels=["a", "b"])


def test_undefined_cells_are_grey_and_say_so() -> None:
    result = sweep(layer=LAYERS, head=HEADS)
    result.values[0, 1, 0] = torch.nan
    figure = result.plot()
    values, grey = figure.data
    assert np.isnan(values.z[1, 0])
    assert grey.text[1][0] == "n/a"
    assert grey.text[0][0] == ""
    assert "undefined" in grey.hovertemplate
    assert figure.layout.annotations[0].text == "grey cells: undefined"
    equal = patching_heatmap(sweep(base=1.0, source=1.0, layer=LAYERS, head=HEADS), recovery=True)
    assert np.isnan(equal.data[0].z).all()
    assert "recovery: undefined" in equal.data[0].hovertemplate


def test_three_axes_have_a_slider_that_opens_at_the_strongest_position() -> None:
    result = sweep(layer=LAYERS, group=WINDOWS, head=HEADS)
    result.values[0, :, 1] += 5
    result.values[0, 0, 2, 0] = torch.nan
    figure = result.plot()
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == WINDOWS
    assert slider.active == 1
    assert [trace.visible for trace in figure.data] == list(slider.steps[1].args[0]["visible"])
    assert list(slider.steps[2].args[0]["visible"]) == [False, False, True, True]
    assert figure.data[0].hovertext[1][2] == "layer 1, 0.00-0.50 s, head 2"


def test_a_single_axis_is_drawn_as_bars() -> None:
    result = sweep(layer=["0"], group=WINDOWS)
    result.values[0, 0, 1] = torch.nan
    figure = patching_heatmap(result, recovery=True)
    (bars,) = figure.data
    assert isinstance(bars, go.Bar)
    np.testing.assert_allclose(bars.x, [0.25, 0.75, 1.15])
    assert bars.hovertext[0] == "layer 0, 0.00-0.50 s"
    assert {"n/a", "n/a: undefined", "1: all of it"} <= {a.text for a in figure.layout.annotations}
    assert figure.layout.yaxis.range[1] > 1


def test_one_cell_and_an_unknown_metric() -> None:
    assert len(sweep(layer=["3"]).plot().data[0].y) == 1
    with pytest.raises(ValueError, match="no metric is called 'loss'"):
        patching_heatmap(sweep(layer=LAYERS), "loss")


def test_large_maps_are_small_pages() -> None:
    layers, positions = [str(i) for i in range(32)], [str(i) for i in range(782)]
    figure = sweep(layer=layers, position=positions).plot()
    assert len(figure.layout.xaxis.tickvals) <= 64
    assert figure.data[0].texttemplate is None
    assert len(figure.to_json()) < 3e6


def test_the_lens_writes_the_likeliest_token_into_each_cell() -> None:
    log_probs = torch.tensor([[[0.1, 0.9], [0.6, 0.4]], [[0.2, 0.8], [0.7, 0.3]]]).log()
    figure = logit_lens_table(log_probs, ["<b>", "\n"].__getitem__, ["a", "b"])
    (heatmap,) = figure.data
    np.testing.assert_allclose(heatmap.z, [[0.9, 0.6], [0.8, 0.7]], rtol=1e-5)
    assert [list(row) for row in heatmap.text] == [["\\n", "&lt;b&gt;"]] * 2
    assert heatmap.hovertext[1][1] == "output, at b<br>&lt;b&gt; 70.0%<br>\\n 30.0%"
    assert list(figure.layout.yaxis.ticktext) == ["0", "output"]
    with pytest.raises(ValueError, match="1 names for 2 positions"):
        logit_lens_table(log_probs, str, ["a"])
    with pytest.raises(ValueError, match="at least one token"):
        logit_lens_table(log_probs, str, top=0)


def steering_table() -> pd.DataFrame:
    rows = [
        (method, beta, 0.5, 0.4, np.nan if method == "random heads" else 0.6, condition)
        for condition, methods in (("conflict", ["ours"]), ("truthful", ["ours", "random heads"]))
        for method in methods
        for beta in (4, 0)
    ]
    return pd.DataFrame(rows, columns=["method", "beta", "accuracy", "low", "high", "condition"])


def test_steering_curves_have_a_panel_a_condition_and_one_legend_entry_a_method() -> None:
    figure = steering_curve(steering_table())
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.name for trace in lines if trace.showlegend] == ["ours", "random heads"]
    assert [a.text for a in figure.layout.annotations] == ["conflict", "truthful"]
    assert list(lines[0].x) == [0, 4]
    assert lines[0].customdata[0] == " [40.0%, 60.0%]"
    assert lines[2].customdata[0] == ""
    assert len(figure.data) == 5  # a band where there is an interval
    assert figure.layout.xaxis2.title.text == "steering strength β"
    assert len({trace.line.dash for trace in lines}) == 2


def test_steering_tables_that_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no column low"):
        steering_curve(steering_table().drop(columns="low"))
    with pytest.raises(ValueError, match="no rows"):
        steering_curve(steering_table().iloc[:0])


def test_scores_show_every_item_and_count_the_undefined() -> None:
    figure = score_distributions({"a": torch.rand(9), "b": [0.1, float("nan")], "none": []})
    assert [len(trace.y) for trace in figure.data] == [9, 1, 0]
    assert list(figure.layout.xaxis.ticktext) == [
        "a<br>n = 9", "b<br>n = 1, 1 undefined", "none<br>n = 0",
    ]  # fmt: skip
    assert figure.data[0].points == "all"
    with pytest.raises(ValueError, match="no groups"):
        score_distributions({})


def test_attribution_has_one_signed_scale() -> None:
    audio, text = torch.rand(2, 3, 4), -2 * torch.ones(2, 3, 4)
    figure = attribution_by_source({"audio": audio, "text": text})
    left, right = figure.data
    np.testing.assert_allclose(left.z, audio.mean(0), rtol=1e-6)
    assert left.coloraxis == right.coloraxis == "coloraxis"
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == 2
    assert [a.text for a in figure.layout.annotations] == ["from the audio", "from the text"]
    with pytest.raises(ValueError, match="expected 'audio' and 'text', not audio"):
        attribution_by_source({"audio": audio})
    with pytest.raises(ValueError, match="audio has 3 x 4 heads, text 2 x 4"):
        attribution_by_source({"audio": audio, "text": torch.zeros(2, 4)})
