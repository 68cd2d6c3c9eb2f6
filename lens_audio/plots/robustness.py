"""What perturbations of the recording do to the listening score and to the answers."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_audio.plots.curves import line_with_interval
from lens_audio.plots.theme import COLOURS, GRID, INK, number, styled, text

PANELS = {"score": "listening score", "kept": "unchanged answers", "accuracy": "right answers"}
COLUMNS = ("what", "level_db", *(name + end for name in PANELS for end in ("", "_low", "_high")))


def robustness_curve(table: pd.DataFrame) -> go.Figure:
    """Listening score, share of unchanged and of right answers against the perturbation's level.

    Args:
        table: of `analysis.robustness.Robustness.to_dataframe`: a panel for each of score, kept and
            accuracy, a line with its interval for each `what`, weak perturbations on the left. What
            stands at infinite decibels is a dotted line.

    Raises:
        ValueError: for a missing column, no finite level, or more than 6 kinds of perturbation.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    is_finite = table["level_db"].abs() < float("inf")
    drawn, without = table[is_finite], table[~is_finite]
    kinds = list(drawn["what"].unique())
    if not kinds:
        raise ValueError("the table has no row at a finite level")
    if len(kinds) > len(COLOURS):
        raise ValueError(f"{len(kinds)} perturbations are too many to tell apart; at most 6")
    titles = list(PANELS.values())
    figure = make_subplots(
        cols=len(PANELS), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03
    )
    for column, panel in enumerate(PANELS, 1):
        for place, what in enumerate(kinds):
            rows = drawn[drawn["what"] == what].sort_values("level_db", ascending=False)
            figure.add_traces(_line(rows, panel, place, column == 1), cols=column, rows=1)
        for value in without[panel].unique():
            figure.add_hline(
                value, col=column, row=1, line={"color": INK, "dash": "dot", "width": 1}
            )
    figure.update_xaxes(autorange="reversed", gridcolor=GRID, title_standoff=8, automargin=True)
    figure.update_xaxes(title_text="dB below the signal")
    figure.update_yaxes(range=[-0.02, 1.02], dtick=0.2, gridcolor=GRID)
    figure.update_yaxes(title_text="score, or share of items", col=1)
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
    return styled(figure, 400, legend=legend, margin={"l": 70, "r": 20, "t": 40, "b": 100})


def _line(rows: pd.DataFrame, panel: str, place: int, in_legend: bool) -> list[go.Scatter]:
    """One kind of perturbation in one panel."""
    what = str(rows["what"].iloc[0])
    columns = [rows[name].tolist() for name in (panel, f"{panel}_low", f"{panel}_high")]
    return line_with_interval(
        rows["level_db"].tolist(),
        *columns,
        name=what,
        number=place,
        in_legend=in_legend,
        customdata=[number(*values) for values in zip(*columns, strict=True)],
        hovertemplate=(
            f"{text(what)}, %{{x:~g}} dB below the signal<br>{PANELS[panel]} %{{customdata}}"
            "<extra></extra>"
        ),
    )
