"""What all figures share: colours that colour-blind people tell apart, on light and on dark."""

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lens_audio.stats import ITEMS, said_over

INK = "#808080"  # text and axes: legible on white and on black
GRID = "rgba(128,128,128,0.22)"
BLUE, ORANGE = "#2f86d1", "#e69f00"  # after Okabe and Ito, "Color Universal Design"
COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#d55e00", "#7a7a7a")  # for up to six series
MAGNITUDE = "Viridis"
SIGNED = [[0, "#08519c"], [0.25, "#6baed6"], [0.5, "#f2f0ec"], [0.75, "#f5a04a"], [1, "#a63603"]]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def styled(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The figure with the shared look: transparent, neutral ink, thin grid, opaque hover labels."""
    figure.update_layout(
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"bgcolor": "#22262e", "bordercolor": "#22262e", "font": {"color": "#fff"}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK, "activecolor": BLUE},
        margin={"l": 70, "r": 20, "t": 20, "b": 50},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure.update_layout(**layout)


def text(label: object, width: int | None = None) -> str:
    """A text that plotly shows as it is: escaped, and broken into lines of `width` letters."""
    words = str(label)
    lines = textwrap.wrap(words, width) if width else [words]
    # Plotly knows &lt; and &amp;, but not &quot;.
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def share(value: float, low: float, high: float, over: str = ITEMS) -> str:
    """A share with its interval: 71.4% [52.9%, 84.7%]; what it is over, unless that is items."""
    return f"{value:.1%} [{low:.1%}, {high:.1%}]{said_over(over)}"


def number(value: float, low: float, high: float) -> str:
    """A number with its interval, if it has one: 0.71 [0.53, 0.85]; "undefined" for NaN."""
    if value != value:
        return "undefined"
    value, low, high = (round(x, 2) + 0.0 for x in (value, low, high))  # no -0.00
    return f"{value:.2f}" if low != low else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def points(change: float, low: float, high: float, over: str = ITEMS) -> str:
    """A difference of shares in percentage points, with its interval: +8.0 [+5.1, +10.9].

    Behind it what the interval is over, unless that is items.
    """
    rounded = (round(100 * x, 1) + 0.0 for x in (change, low, high))  # no -0.0
    said = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*rounded)
    return said + said_over(over)


def clipped(label: str, width: int = 18) -> str:
    """A label short enough for an axis."""
    return label if len(label) <= width else label[: width - 1] + "…"


def ticks(labels: Sequence[str], most: int = 64) -> list[int]:
    """Which entries get a tick: no two closer than room for `most`, one for a run of equals."""
    places: list[int] = []
    for i, label in enumerate(labels):
        is_near = bool(places) and i - places[-1] < len(labels) / most
        if not is_near and (i == 0 or label != labels[i - 1]):
            places.append(i)
    return places
