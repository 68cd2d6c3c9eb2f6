"""Figures in the room of a file: no label on another, no text beyond its cell."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.plots import logit_lens_table, patching_heatmap, steering_curve
from lens_audio.plots.narrow import fitted

COLUMN, PAGE = 468.0, 963.0  # pixels of 89 and 183 mm, with text of 7 points


def sweep(**axes: list[str]) -> PatchingResult:
    """Where nothing is changed, but for the last cell."""
    values = torch.zeros(1, *map(len, axes.values()), 1)
    values.view(-1)[-1] = 0.4
    return PatchingResult(
        values,
        {"metric": ["logit difference"], **axes, "example": ["0"]},
        torch.zeros(1, 1),
        torch.ones(1, 1),
        {"site": "z", "direction": "denoise"},
    )


def windows(n: int) -> list[str]:
    return [f"{i / 4:.2f}-{(i + 1) / 4:.2f} s" for i in range(n)]


def test_numbers_are_left_out_where_they_would_be_wider_than_their_cells() -> None:
    figure = patching_heatmap(sweep(layer=["0", "1"], group=windows(11)), recovery=True)
    narrow, wide = (fitted(figure, width).data[0] for width in (COLUMN, PAGE))
    assert narrow.texttemplate is None
    assert wide.texttemplate
    assert wide.textfont.size == 12


def test_words_are_shortened_to_their_cells() -> None:
    log_probs = torch.zeros(2, 6, 1)
    figure = logit_lens_table(log_probs, lambda i: "<|audio_eos|>", list("abcdef"))
    whole, cut = (fitted(figure, width).data[0].text[0][0] for width in (PAGE, COLUMN))
    assert whole == "&lt;|audio_eos|&gt;"
    assert cut.startswith("&lt;|au")
    assert cut.endswith("…")


def test_upright_labels_are_thinned() -> None:
    names = [f"word · {i}" for i in range(40)]
    result = sweep(layer=["0", "1"], position=list(map(str, range(40))))
    figure = patching_heatmap(result, recovery=True, labels=names)
    axis = fitted(figure, COLUMN).layout.xaxis
    assert 1 < len(axis.ticktext) * axis.tickfont.size < COLUMN / 2
    assert [names[place] for place in axis.tickvals] == list(axis.ticktext)
    assert len(fitted(figure, 2 * PAGE).layout.xaxis.ticktext) == len(names)


def test_titles_of_narrow_panels_are_broken_into_lines_that_have_room() -> None:
    rows = [("m", b, 0.5, 0.4, 0.6, c) for b in (0, 1) for c in "abc"]
    columns = ["method", "beta", "accuracy", "low", "high", "condition"]
    figure = steering_curve(pd.DataFrame(rows, columns=columns))
    narrow = fitted(figure, COLUMN).layout
    assert narrow.xaxis2.title.text == "steering<br>strength β"
    assert narrow.margin.b > figure.layout.margin.b
    assert narrow.height - narrow.margin.b == figure.layout.height - figure.layout.margin.b
    assert fitted(figure, PAGE).layout.xaxis2.title.text == "steering strength β"


def test_a_note_is_broken_into_lines_above_the_plot() -> None:
    result = sweep(layer=["0", "1"], group=windows(4))
    result.values[0, 0, 0] = torch.nan
    figure = patching_heatmap(result, recovery=True, missing=" ".join(["word"] * 20))
    layout = fitted(figure, COLUMN).layout
    lines = layout.annotations[0].text.split("<br>")
    assert " ".join(lines) == figure.layout.annotations[0].text
    assert max(map(len, lines)) * 6 < COLUMN
    assert layout.margin.t > fitted(figure, 2 * PAGE).layout.margin.t


def test_of_a_slider_what_it_stands_at_is_written_and_buttons_are_left_out() -> None:
    result = sweep(layer=["0", "1"], position=["3", "4"], head=["0", "1"])
    figure = patching_heatmap(result, recovery=True)
    layout = fitted(figure, COLUMN).layout
    assert not layout.sliders
    assert not layout.updatemenus
    assert layout.annotations[-1].text == "position: 4"
    assert layout.height < figure.layout.height
    assert figure.layout.sliders
    assert figure.layout.updatemenus


@pytest.mark.parametrize("height", [None, 300.0])
def test_a_plain_figure_stays_as_it_is(height: float | None) -> None:
    figure = go.Figure(go.Heatmap(z=np.eye(2)))
    found = fitted(figure, COLUMN, height)
    assert found.data == figure.data
    assert found.layout.height == (height or 450)
