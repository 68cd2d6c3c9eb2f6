"""The colours of a sweep's maps: one scale for all that stand together, and a button that zooms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.plots.theme import GRID, INK, text

MOST_ZOOM = 1000  # beyond, colours would show rounding
NARROW = 0.6  # of the widest column, such as of a recording's last window
BUTTON_HEIGHT = 20  # pixels


@dataclass(frozen=True)
class Scale:
    """How far colours go, on either side of zero."""

    full: float
    largest: float  # of all cells that share the scale
    recovery: bool

    @classmethod
    def of(cls, results: Sequence[PatchingResult], metric: str | None, recovery: bool) -> "Scale":
        """One for all cells of these results: of their recovery, or of the change of the metric."""
        cells = [
            (r.recovery(metric) if recovery else _change(r, metric)).double().flatten().numpy()
            for r in results
        ]
        sizes = np.abs(np.concatenate(cells))
        largest = float(sizes[np.isfinite(sizes)].max(initial=0.0)) or 1.0
        return cls(max(1.0, largest) if recovery else largest, largest, recovery)

    @property
    def can_zoom(self) -> bool:
        """Whether colours stretched over the cells would show more."""
        return self.full / MOST_ZOOM < self.largest <= self.full / 2

    def bar(self, quantity: str, limit: float) -> dict[str, Any]:
        """Of a plotly trace whose colours end at `limit`."""
        title = text(quantity, 17)
        if limit < self.full:
            title = f"<b>zoomed × {self.full / limit:.3g}</b><br>{title}"
        bar = {"title": {"text": title, "side": "right"}, "thickness": 12}
        if not self.recovery:
            return bar
        ticks = {0.0: "0: nothing"}
        if limit >= 1:
            ticks |= {-1.0: "−1", 1.0: "1: all of it"}
        if not 1 <= limit < 1.25:
            ticks |= {sign * limit: f"{sign * limit:.2g}" for sign in (-1, 1)}
        return bar | {"tickvals": list(ticks), "ticktext": list(ticks.values())}


def _change(result: PatchingResult, metric: str | None) -> Float[Tensor, "..."]:
    number = 0 if metric is None else result.metrics.index(metric)
    return result.mean(metric) - result.base[number].mean()


def _number(value: float, limit: float) -> str:
    """With two decimals, or what leaves the largest two digits (three from 1 on); NaN is nothing."""
    if np.isnan(value):
        return ""
    digits = 3 if limit >= 1 else 2
    decimals = max(0, digits - 1 - int(np.floor(np.log10(limit))))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def cell_numbers(
    shown: Float[np.ndarray, "y x"], limit: float, x: Sequence[float | int]
) -> list[list[str]]:
    """What is written into the cells of a map whose colours end at `limit`: nothing in narrow ones.

    Args:
        x: the columns' edges, or their places where all are of one width.
    """
    has_room = are_wide(x, shown.shape[1])
    return [
        [_number(value, limit) if room else "" for value, room in zip(row, has_room, strict=True)]
        for row in shown.tolist()
    ]


def are_wide(x: Sequence[float | int], n_columns: int) -> list[bool]:
    """Of each column, whether it is near the widest, so that its texts do not shrink all others'."""
    if len(x) == n_columns:
        return [True] * n_columns
    widths = np.diff(np.asarray(x, dtype=float))
    return (widths > NARROW * widths.max()).tolist()


def maps_of(figure: go.Figure) -> list[go.Heatmap]:
    """The figure's maps, without their grey cells."""
    return [trace for trace in figure.data if trace.showscale is not False]


def add_zoom_button(figure: go.Figure, quantity: str, scale: Scale, is_zoomed: bool) -> None:
    """Colours stretched over the cells, and back."""
    maps = maps_of(figure)
    places = [i for i, trace in enumerate(figure.data) if trace.showscale is not False]
    views: list[Any] = []
    for limit in (scale.largest, scale.full):
        bar = scale.bar(quantity, limit)
        view: dict[str, Any] = {
            "zmin": -limit,
            "zmax": limit,
            "colorbar.title.text": bar["title"]["text"],
            "colorbar.tickvals": [bar["tickvals"]] * len(maps),
            "colorbar.ticktext": [bar["ticktext"]] * len(maps),
        }
        if maps[0].texttemplate:
            view["text"] = [cell_numbers(trace.z, limit, trace.x) for trace in maps]
        views.append([view, places])
    first, second = views[::-1] if is_zoomed else views
    button = {
        "label": f"zoom × {scale.full / scale.largest:.3g}",
        "method": "restyle",
        "args": first,
        "args2": second,
    }
    menu = {
        "type": "buttons",
        "buttons": [button],
        "active": -1,  # else the first press would be the second
        "showactive": False,
        "x": 1,
        "xanchor": "right",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 6},
        "bgcolor": "rgba(0,0,0,0)",
        "bordercolor": GRID,
        "font": {"color": INK, "size": 12},
    }
    figure.update_layout(
        updatemenus=[menu],
        margin_t=figure.layout.margin.t + BUTTON_HEIGHT,
        height=figure.layout.height + BUTTON_HEIGHT,
    )
