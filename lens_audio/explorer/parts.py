"""Small parts of the explorer: figures that change in place, and errors that are seen."""

import functools
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from lens_audio.plots.report import escape

# As in the reports: few buttons, and a figure as wide as its place.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage", "resetScale2d"]],
}


class FigureView(go.FigureWidget):
    """A figure that becomes another in place: to make a new widget would load plotly again."""

    data: Any

    def __init__(self, figure: go.Figure) -> None:
        super().__init__(figure)
        self._config = CONFIG

    def become(self, figure: go.Figure) -> None:
        """Show another figure; handlers of traces stay while the kinds of traces are the same."""
        is_alike = [t.type for t in self.data] == [t.type for t in figure.data]
        with self.batch_update():
            if is_alike:
                for old, new in zip(self.data, figure.data, strict=True):
                    old.update(_instead_of(old, new, keep=("uid",)), overwrite=True)
            layout = _instead_of(self.layout, figure.layout, keep=("template", "autosize", "width"))
            self.layout.update(layout, overwrite=True)
        if not is_alike:
            self.data = ()
            self.add_traces([trace.to_plotly_json() for trace in figure.data])


def _instead_of(old: Any, new: Any, keep: tuple[str, ...]) -> dict[str, Any]:
    """What makes the old part of a figure the new one: what it has no more is None."""
    given, before = new.to_plotly_json(), old.to_plotly_json()
    gone = dict.fromkeys(set(before) - set(given))
    return {name: value for name, value in (gone | given).items() if name not in keep}


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
