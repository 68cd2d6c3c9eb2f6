"""What interventions gain and cost."""

import pandas as pd
import plotly.graph_objects as go

from lens_audio.plots.theme import COLOURS, GRID, points, styled, text

GAP = 0.22  # between the conditions of one run


def intervention_effects(table: pd.DataFrame) -> go.Figure:
    """The change in accuracy in every condition, with its interval: a row a run, controls hollow.

    Args:
        table: of an `evals.interventions.InterventionComparison`: columns run, is_control, and for
            each condition CONDITION, CONDITION_low, CONDITION_high (shares from -1 to 1).

    Raises:
        ValueError: for a table without conditions or rows.
    """
    conditions = [name for name in table if f"{name}_low" in table and name != "time"]
    if not conditions or table.empty:
        raise ValueError("the table has no rows, or no columns CONDITION and CONDITION_low")
    runs = list(table["run"])
    figure = go.Figure()
    for number, name in enumerate(conditions):
        value, low, high = (100 * table[f"{name}{end}"] for end in ("", "_low", "_high"))
        offset = GAP * (number - (len(conditions) - 1) / 2)
        colour = COLOURS[number % len(COLOURS)]
        figure.add_scatter(
            x=value,
            y=[row + offset for row in range(len(runs))],
            error_x={"array": high - value, "arrayminus": value - low, "thickness": 2, "width": 0},
            mode="markers",
            marker={
                "size": 9,
                "color": colour,
                "symbol": ["circle-open" if c else "circle" for c in table["is_control"]],
            },
            customdata=[
                f"{text(run)}, {text(name)}<br>{points(v / 100, l / 100, h / 100)} points"
                for run, v, l, h in zip(runs, value, low, high, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
            name=text(name),
        )
    figure.add_vline(x=0, line={"color": COLOURS[5], "dash": "dot", "width": 1})
    figure.update_xaxes(title_text="change in accuracy (points)", gridcolor=GRID)
    figure.update_yaxes(
        tickvals=list(range(len(runs))),
        ticktext=[text(run) for run in runs],
        range=[len(runs) - 0.4, -0.6],
        showgrid=False,
        automargin=True,
    )
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    margin = {"l": 80, "r": 20, "t": 40, "b": 50}
    return styled(figure, 110 + 34 * len(runs), legend=legend, margin=margin)
