"""Small parts of the explorer: figures that change in place, and errors that are seen."""

import functools
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from jaxtyping import Float
from plotly.serializers import custom_serializers
from torch import Tensor

from lens_audio.explorer.plotly_once import FIGURE_MODULE, PlotlySource
from lens_audio.plots.report import escape

# As in the reports: few buttons, and a figure as wide as its place.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage", "resetScale2d"]],
    "toImageButtonOptions": {"format": "svg"},
}


def _null_for_nan(value: Any) -> Any:
    """With null for NaN, which JSON does not have; plotly leaves a gap for either."""
    if isinstance(value, dict):
        return {name: _null_for_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(part) for part in value]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isnan(value).any():
        nullable = value.astype(object)
        nullable[np.isnan(value)] = None
        return nullable.tolist()
    return None if isinstance(value, float) and value != value else value


# As plotly sends figures, but for NaN.
SENT = custom_serializers | {
    "to_json": lambda value, widget: custom_serializers["to_json"](_null_for_nan(value), widget)
}


class FigureView(go.FigureWidget):
    """A figure that becomes another in place, so that handlers of its traces stay."""

    _esm = FIGURE_MODULE
    source = traitlets.Instance(PlotlySource).tag(sync=True, **widgets.widget_serialization)
    _widget_data: Any = traitlets.List().tag(sync=True, **SENT)
    _py2js_addTraces = traitlets.Dict(allow_none=True).tag(sync=True, **SENT)
    _py2js_restyle = traitlets.Dict(allow_none=True).tag(sync=True, **SENT)
    _py2js_update = traitlets.Dict(allow_none=True).tag(sync=True, **SENT)
    data: Any

    @traitlets.default("source")
    def _plotly(self) -> PlotlySource:
        return PlotlySource.get()

    def __init__(self, figure: go.Figure) -> None:
        super().__init__(figure)
        self._config = CONFIG

    def static(self) -> go.Figure:
        """What it shows, as a figure without a widget."""
        return go.Figure(self.to_dict())

    def become(self, figure: go.Figure) -> None:
        """Show another figure; handlers of traces stay while the kinds of traces are the same."""
        is_alike = [t.type for t in self.data] == [t.type for t in figure.data]
        is_as_high = self.layout.height == figure.layout.height
        with self.batch_update():
            if is_alike:
                for old, new in zip(self.data, figure.data, strict=True):
                    old.update(_instead_of(old, new, keep=("uid",)), overwrite=True)
            layout = _instead_of(self.layout, figure.layout, keep=("template", "autosize", "width"))
            self.layout.update(layout, overwrite=True)
        if not is_as_high:  # where plotly changes a height it keeps the width, too
            self._send_relayout_msg({"autosize": True})
        if not is_alike:
            self.data = ()
            self.add_traces([trace.to_plotly_json() for trace in figure.data])


def _instead_of(old: Any, new: Any, keep: tuple[str, ...]) -> dict[str, Any]:
    """What makes the old part of a figure the new one: what it has no more is None."""
    given, before = new.to_plotly_json(), old.to_plotly_json()
    gone = dict.fromkeys(set(before) - set(given))
    return {name: value for name, value in (gone | given).items() if name not in keep}


def strip(values: Float[Tensor, " column"], title: str, color: str) -> str:
    """A few numbers as a row of bars, the largest as high as the strip, in HTML."""
    heights = (40 * values / float(values.max().clamp(min=1e-9))).tolist()
    bars = "".join(
        f'<rect x="{i}" y="{40 - height:.1f}" width="0.9" height="{height:.1f}"/>'
        for i, height in enumerate(heights)
    )
    return (
        f'<svg class="strip" viewBox="0 0 {len(heights)} 40" preserveAspectRatio="none" '
        f'fill="{color}" role="img" aria-label="{escape(title)}">{bars}</svg>'
        f'<div class="note">{escape(title)}</div>'
    )


class Status(widgets.HTML):
    """One line: what is going on, or what went wrong."""

    def say(self, words: str) -> None:
        """Show plain text."""
        self.value = f'<span class="note">{escape(words)}</span>'

    def reporting(self, function: Callable[..., Any]) -> Callable[..., None]:
        """The function with its errors shown here: a widget's own would be lost in a log."""

        @functools.wraps(function)
        def reported(*arguments: Any, **options: Any) -> None:
            try:
                function(*arguments, **options)
            except Exception as error:
                self.fail(error)

        return reported

    def fail(self, error: Exception) -> None:
        """Show an error."""
        self.value = f'<span class="error">{escape(type(error).__name__)}: {escape(error)}</span>'


def heading(title: str, note: str = "") -> widgets.HTML:
    """A heading with a line below it."""
    line = f'<div class="note">{escape(note)}</div>' if note else ""
    return widgets.HTML(f"<h3>{escape(title)}</h3>{line}")


def dropdown(label: str, options: Any, value: Any, width: str = "auto") -> widgets.Dropdown:
    """A dropdown with its whole label shown."""
    return widgets.Dropdown(
        options=options, value=value, description=label, style={"description_width": "initial"},
        layout={"width": width},
    )  # fmt: skip
