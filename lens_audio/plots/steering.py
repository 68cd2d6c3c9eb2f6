"""Accuracy against steering strength."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_audio.plots.curves import SYMBOLS, line_with_interval
from lens_audio.plots.theme import BLUE, COLOURS, GRID, INK, styled, text
from lens_audio.stats import ITEMS, said_over

COLUMNS = ("method", "accuracy", "low", "high", "condition")


def steering_curve(table: pd.DataFrame) -> go.Figure:
    """Accuracy against beta: a panel for each condition, a line with its interval for each method.

    Args:
        table: columns method, beta, accuracy, low, high (the interval; NaN for none; all three
            0 to 1) and condition; and, if there is one, over: what an interval is over, unless
            that is items. Methods and conditions keep the order of their first rows.

    Raises:
        ValueError: for a missing column, no rows, or more than 6 methods.
    """
    return _curves(table, "beta", "β", "steering strength β")


def coefficient_curve(table: pd.DataFrame) -> go.Figure:
    """Accuracy against a steering vector's coefficient; see `steering_curve`.

    Args:
        table: as of `steering_curve`, with coefficient in the place of beta.

    Raises:
        ValueError: for a missing column, no rows, or more than 6 methods.
    """
    return _curves(table, "coefficient", "coefficient", "coefficient")


def _curves(table: pd.DataFrame, x: str, sign: str, title: str) -> go.Figure:
    """Accuracy against a column, which hovering calls `sign` and the axis `title`."""
    missing = [name for name in (x, *COLUMNS) if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    methods, conditions = list(table["method"].unique()), list(table["condition"].unique())
    if not methods:
        raise ValueError("the table has no rows")
    if len(methods) > len(COLOURS):
        raise ValueError(f"{len(methods)} methods are too many to tell apart; at most 6")
    figure = make_subplots(
        cols=len(conditions),
        shared_yaxes=True,
        subplot_titles=[text(name) for name in conditions],
        horizontal_spacing=0.03,
    )
    for column, condition in enumerate(conditions, 1):
        for number, method in enumerate(methods):
            chosen = (table["method"] == method) & (table["condition"] == condition)
            rows = table[chosen].sort_values(x)
            if len(rows):
                traces = _line(rows, x, sign, number, column == 1)
                figure.add_traces(traces, cols=column, rows=1)
    seen = {trace.legendgroup for trace in figure.data if trace.showlegend}
    for trace in figure.data:  # methods that the first condition lacks
        if trace.mode and trace.legendgroup not in seen:
            trace.showlegend = True
            seen.add(trace.legendgroup)
    figure.update_xaxes(title_text=title, title_standoff=8, automargin=True)
    figure.update_xaxes(gridcolor=GRID)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", dtick=0.2, gridcolor=GRID)
    has_intervals = bool(table["low"].notna().any())
    figure.update_yaxes(title_text="accuracy" + ", with its interval" * has_intervals, col=1)
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
    return styled(figure, 420, legend=legend, margin={"l": 70, "r": 20, "t": 40, "b": 90})


def _line(rows: pd.DataFrame, x: str, sign: str, number: int, in_legend: bool) -> list[go.Scatter]:
    """A method's interval as a band, where it has one, and its line over it."""
    method = str(rows["method"].iloc[0])
    over = rows["over"] if "over" in rows else [ITEMS] * len(rows)
    intervals = [
        "" if pd.isna(low) or pd.isna(high) else f" [{low:.1%}, {high:.1%}]{said_over(what)}"
        for low, high, what in zip(rows["low"], rows["high"], over, strict=True)
    ]
    return line_with_interval(
        *(pd.to_numeric(rows[c], errors="coerce").tolist() for c in (x, "accuracy", "low", "high")),
        name=method,
        number=number,
        in_legend=in_legend,
        customdata=intervals,
        hovertemplate=(
            f"{text(method)}, {text(rows['condition'].iloc[0])}<br>{sign} = %{{x:~g}}<br>"
            "accuracy %{y:.1%}%{customdata}<extra></extra>"
        ),
    )


def layer_curve(table: pd.DataFrame, chosen: Sequence[int] = ()) -> go.Figure:
    """Accuracy by steering with the direction of one layer alone: a panel for each condition, a line
    for each beta, the stronger the darker; without steering a dotted line.

    Args:
        table: columns layer, beta, accuracy (0 to 1) and condition.
        chosen: layers to shade, such as those of the specialists.

    Raises:
        ValueError: for a missing column, or no rows.
    """
    missing = [name for name in ("layer", "beta", "accuracy", "condition") if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    if not len(table):
        raise ValueError("the table has no rows")
    conditions, betas = list(table["condition"].unique()), sorted(table["beta"].unique())
    figure = make_subplots(
        cols=len(conditions),
        shared_yaxes=True,
        subplot_titles=[text(name) for name in conditions],
        horizontal_spacing=0.03,
    )
    red, green, blue = (int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    for column, condition in enumerate(conditions, 1):
        for number, beta in enumerate(betas):
            rows = table[(table["condition"] == condition) & (table["beta"] == beta)]
            strong = (
                f"rgba({red},{green},{blue},{0.25 + 0.75 * number / max(1, len(betas) - 1):.2f})"
            )
            line = go.Scatter(
                x=rows["layer"],
                y=rows["accuracy"],
                name=f"β = {beta:g}",
                mode="lines+markers" if beta else "lines",
                line={"color": strong, "width": 2} if beta else {"color": INK, "dash": "dot"},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
                hovertemplate=f"layer %{{x}}, β = {beta:g}<br>accuracy %{{y:.1%}}<extra></extra>",
                legendgroup=str(beta),
                showlegend=column == 1,
            )
            figure.add_trace(line, row=1, col=column)
    for layer in chosen:  # after the traces: panels without any are left out
        shade = {"fillcolor": GRID, "line_width": 0, "layer": "below"}
        figure.add_vrect(layer - 0.3, layer + 0.3, **shade)
    n_layers = table["layer"].nunique()
    ticks = {"dtick": 1 if n_layers <= 12 else 4, "range": [-0.6, n_layers - 0.4]}
    figure.update_xaxes(title_text="layer", title_standoff=8, gridcolor=GRID, **ticks)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", dtick=0.2, gridcolor=GRID)
    figure.update_yaxes(title_text="accuracy", col=1)
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
    return styled(figure, 380, legend=legend, margin={"l": 70, "r": 20, "t": 40, "b": 90})
