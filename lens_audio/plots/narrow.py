"""A figure in the room that a file gives it: no label on another, no text beyond its cell."""

import re
import textwrap
from collections.abc import Iterable
from html import unescape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_audio.plots.patching import SLIDER_HEIGHT
from lens_audio.plots.theme import clipped, text
from lens_audio.plots.zoom import BUTTON_HEIGHT

SIZE = 13.0  # pixels, of the figures' font
TITLE = 1.2  # how much larger titles of axes are
LINE = 1.3  # of a font's size
NARROW = frozenset(
    " .,:;'|!()[]-–fijlrtI"
)  # letters of 0.37 of a font's size, about; others have 0.64
CELL_SIZES = (12.0, 11.0, 10.0, 9.5)  # pixels; the smallest is 5 points on paper
NUMBER = re.compile(r"-?\d*\.?\d*|n/a")


def fitted(figure: go.Figure, width: float, height: float | None = None) -> go.Figure:
    """A copy for a file of so many pixels, by default as high as the figure: texts have room there.

    Numbers wider than their cells are left out and words are shortened; upright labels that would
    touch are thinned; titles and notes are broken into lines. Buttons and sliders, which need a
    screen, are left out: what a slider stands at is written above.
    """
    figure = go.Figure(figure).update_xaxes(automargin=True)
    layout = figure.layout
    layout.height = 450 if layout.height is None else layout.height
    for side, by_default in (("l", 80), ("r", 80), ("t", 100), ("b", 80)):
        if layout.margin[side] is None:
            layout.margin[side] = by_default
    _without_controls(layout)
    left = _left(figure)
    room = width - left - _right(figure)
    for note in layout.annotations:
        if note.xref == "paper" and note.xanchor == "left":
            _add_room(layout, "t", _in_lines(note, width - left, SIZE))
    added = [0.0]
    for axis in figure.select_xaxes():
        start, end = axis.domain or (0, 1)
        if axis.ticktext is not None and axis.tickangle == 90:
            _thin(axis, (end - start) * room)
        if axis.title.text:
            added.append(_in_lines(axis.title, (end - start) * room, TITLE * SIZE))
    _add_room(layout, "b", max(added))
    layout.height = layout.height if height is None else height
    for trace in figure.select_traces("heatmap"):
        if trace.texttemplate:
            _fit_cells(trace, layout, room)
    return figure


def _without_controls(layout: go.Layout) -> None:
    if layout.updatemenus:
        layout.updatemenus = ()
        layout.height -= BUTTON_HEIGHT
        layout.margin.t -= BUTTON_HEIGHT
    for slider in layout.sliders:
        layout.height -= SLIDER_HEIGHT
        place = (slider.currentvalue.prefix or "") + slider.steps[slider.active or 0].label
        note = {"text": place, "showarrow": False, "xref": "paper", "yref": "paper", "x": 1, "y": 1,
                "xanchor": "right", "yanchor": "bottom"}  # fmt: skip
        layout.annotations = [*layout.annotations, note]
    layout.sliders = ()


def _in_lines(holder: Any, room: float, size: float) -> float:
    """Break a note or title into as many lines as it needs; how many pixels more that takes."""
    lines = holder.text.split("<br>")
    broken = []
    for line in lines:
        letters = max(8, int(len(line) * room / (size * _ems(line))))
        broken += textwrap.wrap(line, letters)
    holder.text = "<br>".join(broken)
    return LINE * size * (len(broken) - len(lines))


def _add_room(layout: go.Layout, side: str, pixels: float) -> None:
    layout.margin[side] += pixels
    layout.height += pixels


def _left(figure: go.Figure) -> float:
    """Pixels of the labels on the left, about."""
    margins = [figure.layout.margin.l]
    for axis in figure.select_yaxes():
        if axis.automargin:
            names = axis.ticktext if axis.ticktext is not None else figure.data[0].y
            margins.append(_longest(names) * (axis.tickfont.size or SIZE) + 3 * SIZE)
    return float(max(margins))


def _right(figure: go.Figure) -> float:
    """Pixels of the colour bars on the right, about."""
    bars = [
        trace.colorbar for trace in figure.select_traces("heatmap") if trace.colorbar.title.text
    ]
    bars += [bar for bar in [figure.layout.coloraxis.colorbar] if bar.title.text]
    margins = [figure.layout.margin.r]
    for bar in bars:
        names = ["0.00"] if bar.ticktext is None else bar.ticktext
        lines = bar.title.text.count("<br>") + 1
        margins.append(40 + (_longest(names) + lines * TITLE * LINE) * SIZE)
    return float(max(margins))


def _ems(label: Any) -> float:
    """How wide a label is, about, of its font's size."""
    return float(sum(0.37 if letter in NARROW else 0.64 for letter in unescape(str(label))))


def _longest(labels: Iterable[Any]) -> float:
    return max(map(_ems, labels), default=0.0)


def _thin(axis: Any, room: float) -> None:
    """Of upright labels every second, third, …, so that none touches the next."""
    needed = len(axis.ticktext) * LINE * (axis.tickfont.size or SIZE)
    step = max(1, int(np.ceil(needed / room)))
    axis.ticktext, axis.tickvals = axis.ticktext[::step], axis.tickvals[::step]


def _fit_cells(trace: Any, layout: go.Layout, room: float) -> None:
    """The largest letters at which all texts have room; at the smallest, less text."""
    n_rows, n_columns = np.shape(trace.z)
    x = np.arange(n_columns + 1) if trace.x is None or len(trace.x) == n_columns else trace.x
    width = room * np.diff(np.asarray(x, dtype=float)).max() / (x[-1] - x[0])
    height = (layout.height - layout.margin.t - layout.margin.b) / n_rows
    longest = max(map(_longest, trace.text)) + 0.4  # apart from the next cell's
    fits = [s for s in CELL_SIZES if longest * s <= width and LINE * s <= height]
    trace.textfont.size = fits[0] if fits else CELL_SIZES[-1]
    if fits:
        return
    most = int(width / (0.64 * CELL_SIZES[-1]))
    are_numbers = all(NUMBER.fullmatch(cell) for row in trace.text for cell in row)
    if are_numbers or most < 2 or LINE * CELL_SIZES[-1] > height:
        trace.texttemplate = None
    else:
        trace.text = [[text(clipped(unescape(cell), most)) for cell in row] for row in trace.text]
