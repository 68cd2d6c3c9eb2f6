"""How faithful circuits of several sizes are."""

import pandas as pd
import plotly.graph_objects as go

from lens_audio.plots.curves import line_with_interval
from lens_audio.plots.theme import INK, number, styled

COLUMNS = ("n_edges", "faithfulness", "low", "high")


def faithfulness_over_size(table: pd.DataFrame) -> go.Figure:
    """Faithfulness against the number of edges, with its interval, where 0 edges are left out.

    Args:
        table: of `analysis.circuits.faithfulness_curve(...).table`; `low` and `high` may be NaN.

    Raises:
        ValueError: for a missing column, or no size above 0.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    rows = table[table["n_edges"] > 0]
    if rows.empty:
        raise ValueError("the table has no circuit that has an edge")
    sizes, *values = (rows[name].tolist() for name in COLUMNS)
    lines = line_with_interval(
        sizes,
        *values,
        name="faithfulness",
        number=0,
        in_legend=False,
        customdata=[number(*said) for said in zip(*values, strict=True)],
        hovertemplate="%{x} edges<br>faithfulness %{customdata}<extra></extra>",
    )
    figure = go.Figure(lines)
    figure.add_hline(1, line={"color": INK, "dash": "dot", "width": 1})
    ends = sorted({sizes[0], *(n for n in (1, 3, 10, 30, 100, 300, 1000) if sizes[0] < n < sizes[-1] / 2),
                   sizes[-1]})  # fmt: skip
    ticks = {"tickvals": ends, "ticktext": [f"{n:,}" for n in ends]}
    figure.update_xaxes(title_text="edges of the circuit", type="log", **ticks)
    figure.update_yaxes(title_text="faithfulness")
    return styled(figure, 340, margin={"l": 70, "r": 20, "t": 20, "b": 60})
