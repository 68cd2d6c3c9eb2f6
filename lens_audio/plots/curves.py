"""A line over its interval: what figures of something against a strength or level are made of."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lens_audio.plots.theme import COLOURS, text

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "solid")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def line_with_interval(
    x: Sequence[float | int],
    y: Sequence[float | int],
    low: Sequence[float | int],
    high: Sequence[float | int],
    *,
    name: str,
    number: int,
    in_legend: bool,
    **hover: Any,
) -> list[go.Scatter]:
    """The interval as a band, where there is one (NaN for none), and the line over it.

    Args:
        name: in the legend, where all lines of this name are switched together.
        number: of the series, from 0 to 5; gives colour, dashes and marker.
        hover: what the line's trace has besides, such as `hovertemplate` and `customdata`.
    """
    colour = COLOURS[number]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    ends = pd.DataFrame({"x": x, "low": low, "high": high}).dropna()
    band = go.Scatter(
        x=[*ends["x"], *ends["x"][::-1]],
        y=[*ends["high"], *ends["low"][::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="none",
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
    )
    line = go.Scatter(
        x=x,
        y=y,
        name=text(name),
        mode="lines+markers",
        line={"color": colour, "dash": DASHES[number], "width": 2.2},
        marker={"symbol": SYMBOLS[number], "size": 8},
        legendgroup=name,
        showlegend=in_legend,
        **hover,
    )
    return [band, line] if len(ends) else [line]
