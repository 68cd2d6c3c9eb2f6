"""The map of all heads."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Real
from plotly.subplots import make_subplots

from lens_audio.analysis.listening import LEVEL, Correlation
from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import INK, MAGNITUDE, SIGNED, styled, text
from lens_audio.sites import head_name


def head_map(
    values: Real[Array, "layer head"] | pd.DataFrame,
    quantity: str = "audio mass",
    *,
    outlined: Sequence[tuple[int, int]] = (),
    signed: bool = False,
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """One number for each head, as a layer x head map; the last layer is on top, NaN is blank.

    Args:
        quantity: what the numbers are, with their unit if they have one.
        outlined: (layer, head) pairs to mark, such as the strongest.
        signed: a blue-orange scale centred at zero, for numbers whose sign matters.
        limits: of the colour scale; by default 0 (or minus the largest size) to the largest.
    """
    z = as_array(values, "layer", "head")
    n_layers, n_heads = z.shape
    known = z[~np.isnan(z)]
    largest = float(abs(known).max(initial=0.0)) or 1.0
    low, high = limits or (-largest if signed else float(known.min(initial=0.0)), largest)
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
        hoverongaps=False,
    )
    figure = go.Figure(heatmap)
    for layer, head in outlined:
        corners = {"x0": head - 0.5, "x1": head + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
        figure.add_shape(type="rect", **corners, line={"color": "#ff3d7f", "width": 2.5})
    axis = {"showgrid": False, "linecolor": INK, "tickmode": "linear", "tick0": 0}
    figure.update_xaxes(title_text="head", dtick=_step(n_heads), **axis)
    figure.update_yaxes(title_text="layer", dtick=_step(n_layers), **axis)
    return styled(figure, height=min(700, max(300, 130 + 44 * n_layers)))


def correlation_map(
    r: Real[Array, "layer head"], heads: Sequence[tuple[int, int]] = ()
) -> go.Figure:
    """Correlation of each head's audio mass with right answers; NaN (it never changes) is 0.

    Args:
        heads: (layer, head) pairs to mark, such as the significant ones.
    """
    known = np.nan_to_num(as_array(r, "layer", "head"), nan=0.0)
    limit = max(0.05, float(abs(known).max()))
    return head_map(
        known,
        "correlation with right answers",
        signed=True,
        outlined=heads,
        limits=(-limit, limit),
    )


def specialists(heads: Sequence[tuple[int, int]], found: Correlation) -> str:
    """Which heads are the specialists, and what the outlines of a correlation map say."""
    named = ", ".join(head_name(*head) for head in heads) or "none"
    known = set(found.significant())
    count = sum(tuple(head) in known for head in heads)
    return (
        f"The specialists, of highest correlation: {named}. Outlined are the heads that correlate "
        f"significantly ({count} of the {len(heads)} specialists do): p below {LEVEL:g}, corrected "
        "for all heads by the largest correlation of any head in each permutation (Westfall and "
        "Young; never less strict than p without correction)."
    )


def _step(n: int) -> int:
    """Every label up to 16 of them, else every fourth."""
    return 1 if n <= 16 else 4


def attribution_by_source(
    attribution: Mapping[str, Real[Array, "*example layer head"] | pd.DataFrame],
    quantity: str = "logit difference",
) -> go.Figure:
    """What each head wrote toward an answer from the audio, and from the text: one signed scale.

    Args:
        attribution: of `analysis.direct_attribution.head_attribution_by_source`, "audio" and
            "text"; examples are averaged.
        quantity: what it is attributed, with its unit if it has one.

    Raises:
        ValueError: unless there are an "audio" and a "text" of one shape.
    """
    if not {"audio", "text"} <= set(attribution):
        raise ValueError(f"expected 'audio' and 'text', not {', '.join(attribution) or 'nothing'}")
    panels = {f"from the {source}": as_array(attribution[source]) for source in ("audio", "text")}
    means = {name: x.reshape(-1, *x.shape[-2:]).mean(0) for name, x in panels.items()}
    (n_layers, n_heads), other = (z.shape for z in means.values())
    if other != (n_layers, n_heads):
        raise ValueError(f"audio has {n_layers} x {n_heads} heads, text {other[0]} x {other[1]}")
    figure = make_subplots(cols=2, shared_yaxes=True, subplot_titles=list(means),
                           horizontal_spacing=0.04)  # fmt: skip
    for column, (name, z) in enumerate(means.items(), 1):
        hover = f"layer %{{y}}, head %{{x}}<br>{name}: %{{z:.4f}}<br>from both: %{{customdata:.4f}}"
        both = sum(means.values())
        heatmap = go.Heatmap(z=z, customdata=both, coloraxis="coloraxis", xgap=1, ygap=1,
                             hovertemplate=hover + "<extra></extra>")  # fmt: skip
        figure.add_trace(heatmap, row=1, col=column)
    largest = max(float(np.nanmax(abs(z), initial=0.0)) for z in means.values()) or 1.0
    axis = {"showgrid": False, "linecolor": INK, "tickmode": "linear", "tick0": 0}
    figure.update_xaxes(title_text="head", dtick=_step(n_heads), **axis)
    figure.update_yaxes(dtick=_step(n_layers), **axis)
    figure.update_yaxes(title_text="layer", col=1)
    scale = {
        "colorscale": SIGNED,
        "cmin": -largest,
        "cmax": largest,
        "colorbar": {"title": {"text": text(quantity, 24), "side": "right"}, "thickness": 12},
    }
    height = min(700, max(300, 150 + 44 * n_layers))
    return styled(figure, height, coloraxis=scale, margin={"l": 70, "r": 20, "t": 44, "b": 50})
