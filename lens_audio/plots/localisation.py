"""How well methods find the heads that are known to read the audio."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_audio.plots.theme import COLOURS, GRID, number, styled, text

MEASURES = {"auroc": "AUROC", "precision": "precision at k"}
COLUMNS = (
    "checkpoint",
    "method",
    *(f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high")),
)


def localisation_scores(table: pd.DataFrame) -> go.Figure:
    """AUROC and precision of every method with their intervals: a panel a checkpoint.

    Args:
        table: rows of one condition, of a score card (`evals.localisation`); an interval that is
            missing is not drawn. The dotted line is an AUROC of chance.

    Raises:
        ValueError: for a missing column, no rows, or a method that comes twice on a checkpoint.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    if table.empty or table.duplicated(["checkpoint", "method"]).any():
        raise ValueError("give a row for each checkpoint and method: those of one condition")
    methods, checkpoints = list(table["method"].unique()), list(table["checkpoint"].unique())
    figure = make_subplots(
        cols=len(checkpoints), shared_yaxes=True, horizontal_spacing=0.04,
        subplot_titles=[text(name) for name in checkpoints],
    )  # fmt: skip
    for column, checkpoint in enumerate(checkpoints, 1):
        rows = table[table["checkpoint"] == checkpoint]
        for which, (measure, name) in enumerate(MEASURES.items()):
            value, low, high = (rows[f"{measure}{end}"] for end in ("", "_low", "_high"))
            figure.add_scatter(
                x=value,
                y=[methods.index(method) + 0.34 * (which - 0.5) for method in rows["method"]],
                error_x={"array": high - value, "arrayminus": value - low, "thickness": 2, "width": 0},
                mode="markers",
                marker={"size": 9, "color": COLOURS[which], "symbol": ("circle", "diamond")[which]},
                customdata=[
                    f"{text(method)}, {text(checkpoint)}<br>{name} {number(*numbers)}"
                    for method, *numbers in zip(rows["method"], value, low, high, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )  # fmt: skip
        line = {"color": COLOURS[5], "dash": "dot", "width": 1}
        figure.add_vline(x=0.5, line=line, row=1, col=column)
    figure.update_xaxes(range=[-0.04, 1.04], dtick=0.5, gridcolor=GRID)
    figure.update_yaxes(
        tickvals=list(range(len(methods))), ticktext=[text(method) for method in methods],
        range=[len(methods) - 0.5, -0.5], automargin=True, showgrid=False,
    )  # fmt: skip
    return styled(
        figure, 110 + 28 * len(methods), margin={"l": 20, "r": 20, "t": 40, "b": 70},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
