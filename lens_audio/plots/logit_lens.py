"""What the model would say if it stopped early."""

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Real

from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import INK, MAGNITUDE, clipped, styled, text, ticks

MOST_COLUMNS = 20  # with more, the words are in the hover text only


def logit_lens_table(
    log_probs: Real[Array, "layer pos token"],
    word: Callable[[int], str],
    positions: Sequence[str] | None = None,
    *,
    top: int = 5,
) -> go.Figure:
    """The likeliest next token at every layer and position, coloured by its probability.

    Args:
        log_probs: one row of `analysis.logit_lens.logit_lens`: before each layer, and after the
            last (the model's own prediction, on top).
        word: the text of an entry of the token axis: `model.to_single_str_token`, or for chosen
            tokens `choices.__getitem__`.
        positions: what stands at each position; by default its number.
        top: how many tokens the hover text lists.

    Raises:
        ValueError: for another number of names than positions, or no token to list.
    """
    numbers = torch.from_numpy(as_array(log_probs, "layer", "pos", "token"))
    n_layers, n_positions, n_tokens = numbers.shape
    names = [str(i) for i in range(n_positions)] if positions is None else list(positions)
    if len(names) != n_positions:
        raise ValueError(f"{len(names)} names for {n_positions} positions")
    if top < 1:
        raise ValueError(f"top={top}; list at least one token")
    rows = [*map(str, range(n_layers - 1)), "output"]
    best = numbers.topk(min(top, n_tokens), dim=-1)
    figure = go.Figure(
        _heatmap(best.values.exp().numpy(), best.indices.tolist(), word, rows, names)
    )
    places = ticks(names)
    figure.update_xaxes(
        title_text="position",
        tickvals=places,
        ticktext=[text(clipped(names[i])) for i in places],
        tickangle=90 if n_positions > MOST_COLUMNS else None,
        tickfont_size=11,
    )
    places = ticks(rows, 36)
    figure.update_yaxes(
        title_text="before layer", tickvals=places, ticktext=[rows[i] for i in places]
    )
    axis = {"showgrid": False, "linecolor": INK, "automargin": True, "title_standoff": 10}
    return styled(figure, height=min(900, max(280, 140 + 32 * n_layers)), xaxis=axis, yaxis=axis)


def _heatmap(
    probs: Float[np.ndarray, "layer pos top"],
    tokens: list[list[list[int]]],
    word: Callable[[int], str],
    rows: Sequence[str],
    names: Sequence[str],
) -> go.Heatmap:
    """The likeliest token in each cell, and those that follow it in the hover text."""
    layers = [*(f"before layer {row}" for row in rows[:-1]), rows[-1]]
    words = [[_shown(word(place[0])) for place in row] for row in tokens]
    hover = [
        [
            f"{layers[i]}, at {text(names[j])}<br>{_listed(tokens[i][j], probs[i, j], word)}"
            for j in range(len(names))
        ]
        for i in range(len(rows))
    ]
    return go.Heatmap(
        z=probs[..., 0],
        zmin=0,
        zmax=1,
        colorscale=MAGNITUDE,
        xgap=1,
        ygap=1,
        text=[[text(clipped(w, max(4, 96 // len(names)))) for w in row] for row in words],
        texttemplate="%{text}" if len(names) <= MOST_COLUMNS else None,
        textfont={"size": 11},
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        colorbar={"title": {"text": "probability", "side": "right"}, "thickness": 12},
    )


def _listed(tokens: Sequence[int], probs: Float[np.ndarray, " top"], word: Callable) -> str:
    """The likeliest tokens, one a line."""
    lines = [f"{text(_shown(word(t)))} {p:.1%}" for t, p in zip(tokens, probs, strict=True)]
    return "<br>".join(lines)


def _shown(word: str) -> str:
    """A token with its line breaks visible."""
    return repr(word)[1:-1]
