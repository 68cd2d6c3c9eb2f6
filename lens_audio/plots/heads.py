"""The map of all heads."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from lens_audio.plots.theme import INK, MAGNITUDE, SIGNED, styled, text


def head_map(
    values: Float[Tensor, "layer head"],
    quantity: str = "attention on the audio",
    *,
    outlined: Sequence[tuple[int, int]] = (),
    signed: bool = False,
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """One number for each head, as a layer x head map; the last layer is on top.

    Args:
        quantity: what the numbers are, with their unit if they have one.
        outlined: (layer, head) pairs to mark, such as the strongest.
        signed: a blue-orange scale centred at zero, for numbers whose sign matters.
        limits: of the colour scale; by default 0 (or minus the largest size) to the largest.
    """
    n_layers, n_heads = values.shape
    z = values.detach().float().cpu().numpy()
    largest = float(abs(z).max()) or 1.0
    low, high = limits or (-largest if signed else min(0.0, float(z.min())), largest)
    name = text(quantity)
    heatmap = go.Heatmap(
        z=z,
        zmin=low,
        zmax=high,
        colorscale=SIGNED if signed else MAGNITUDE,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": text(quantity, 24), "side": "right"}, "thickness": 12},
        hovertemplate=f"layer %{{y}}, head %{{x}}<br>{name} %{{z:.4f}}<extra></extra>",
    )
    figure = go.Figure(heatmap)
    for layer, head in outlined:
        corners = {"x0": head - 0.5, "x1": head + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
        figure.add_shape(type="rect", **corners, line={"color": "#ff3d7f", "width": 2.5})
    axis = {"showgrid": False, "linecolor": INK, "tickmode": "linear", "tick0": 0}
    figure.update_xaxes(title_text="head", dtick=_step(n_heads), **axis)
    figure.update_yaxes(title_text="layer", dtick=_step(n_layers), **axis)
    return styled(figure, height=min(700, max(300, 130 + 44 * n_layers)))


def _step(n: int) -> int:
    """Every label up to 16 of them, else every fourth."""
    return 1 if n <= 16 else 4
