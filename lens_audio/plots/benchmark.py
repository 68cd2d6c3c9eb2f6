"""Accuracies of a benchmark's runs."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_audio.plots.theme import COLOURS, GRID, clipped, styled, text

COLUMNS = ("run", "value", "accuracy", "low", "high")


def run_accuracies(table: pd.DataFrame) -> go.Figure:
    """Accuracy of every run with its interval: a panel for each value, a point for each run.

    Args:
        table: columns run, value (such as all, sound, music), and accuracy, low, high (0 to 1).
            Runs and values keep the order of their first rows.

    Raises:
        ValueError: for a missing column or no rows.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    runs, values = list(table["run"].unique()), list(table["value"].unique())
    if not runs:
        raise ValueError("the table has no rows")
    figure = make_subplots(
        cols=len(values), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[text(clipped(value)) for value in values],
    )  # fmt: skip
    for column, value in enumerate(values, 1):
        rows = table[table["value"] == value]
        figure.add_scatter(
            x=rows["accuracy"],
            y=[runs.index(run) for run in rows["run"]],
            error_x={
                "array": rows["high"] - rows["accuracy"],
                "arrayminus": rows["accuracy"] - rows["low"],
                "thickness": 2,
                "width": 5,
            },
            mode="markers",
            marker={"size": 10, "color": COLOURS[0]},
            customdata=[
                f"{text(run)}, {text(value)}<br>{accuracy:.1%} [{low:.1%}, {high:.1%}]"
                for run, accuracy, low, high in rows[["run", "accuracy", "low", "high"]].to_numpy()
            ],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        base = rows[rows["run"] == runs[0]]["accuracy"]
        if len(base):
            line = {"color": COLOURS[5], "dash": "dot", "width": 1}
            figure.add_vline(x=float(base.iloc[0]), line=line, row=1, col=column)
    figure.update_xaxes(range=[-0.04, 1.04], dtick=0.5, tickformat=".0%", gridcolor=GRID)
    figure.update_yaxes(
        tickvals=list(range(len(runs))), ticktext=[text(run) for run in runs],
        autorange="reversed", automargin=True, showgrid=False,
    )  # fmt: skip
    return styled(figure, 90 + 38 * len(runs), margin={"l": 20, "r": 20, "t": 40, "b": 40})
