"""Listening scores of groups of items."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Real

from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import COLOURS, GRID, styled, text

FEWEST = 5  # a curve over fewer points would invent a shape


def score_distributions(
    groups: Mapping[str, Sequence[float] | Real[Array, " item"] | pd.Series],
    quantity: str = "listening score",
) -> go.Figure:
    """How the scores of each group are spread: every item a point, with median and quartiles.

    Of a group of fewer than five only the points are drawn.

    Args:
        groups: scores by the group's name, such as "answer from the audio". Undefined (NaN)
            scores are counted beside the name, not drawn.
        quantity: what the scores are, with their unit if they have one.

    Raises:
        ValueError: for no groups.
    """
    if not groups:
        raise ValueError("no groups of scores were given")
    figure = go.Figure()
    names = []
    for number, (name, values) in enumerate(groups.items()):
        scores = as_array(values, "item", dtype=float)
        defined = scores[~np.isnan(scores)]
        names.append(_name(name, len(defined), len(scores) - len(defined)))
        colour = COLOURS[number % len(COLOURS)]
        shared = {
            "y": defined,
            "showlegend": False,
            "hovertemplate": f"{text(name)}<br>{text(quantity)} %{{y:.4f}}<extra></extra>",
        }
        if len(defined) < FEWEST:
            figure.add_scatter(
                x=[number] * len(defined), mode="markers", marker={"color": colour, "size": 8},
                **shared,
            )  # fmt: skip
            continue
        figure.add_violin(
            x0=number,
            points="all",
            jitter=0.5,
            pointpos=0,
            marker={"color": colour, "size": 5, "opacity": 0.55},
            line={"color": colour, "width": 1.5},
            fillcolor="rgba(0,0,0,0)",
            box_visible=True,
            meanline_visible=False,
            spanmode="hard",
            width=0.8,
            hoveron="points+kde",
            **shared,
        )
    figure.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[-0.6, len(names) - 0.4],
        showgrid=False,
    )
    figure.update_yaxes(title_text=text(quantity), gridcolor=GRID)
    return styled(figure, 400, margin={"l": 70, "r": 20, "t": 20, "b": 50})


def _name(group: str, defined: int, undefined: int) -> str:
    count = f"n = {defined}" + (f", {undefined} undefined" if undefined else "")
    return f"{text(group, 26)}<br>{count}"
