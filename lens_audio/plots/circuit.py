"""A circuit of heads as a graph, from the audio at the bottom to the logits on top."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Real

from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import BLUE, INK, MAGNITUDE, ORANGE, styled, text
from lens_audio.sites import head_name

Head = tuple[int, int]
COLUMNS = ("sender", "receiver", "input", "recovery")
DASHES = {"q": "dash", "k": "dot", "v": "longdashdot", "resid": "solid"}
INPUTS = {"q": "query", "k": "key", "v": "value", "resid": "residual stream"}
THINNEST, THICKEST = 1.0, 9.0  # pixels
BEND = {"q": -0.09, "k": 0.09, "v": 0.0, "resid": 0.0}  # keeps parallel edges apart


def circuit_graph(
    edges: pd.DataFrame,
    attention: Real[Array, "layer head"] | pd.DataFrame | None = None,
    *,
    values: Mapping[Head, float] | None = None,
    quantity: str = "audio mass",
    least: float | int = 0.02,
) -> go.Figure:
    """What the heads of a circuit tell one another and the logits; the last layer is on top.

    A line's width is the size of its recovery, its colour the sign and its dashes what it leads
    into: a query, a key, a value, or the logits (solid).

    Args:
        edges: of `analysis.circuit.circuit_edges`.
        attention: each head's audio mass, 0 to 1: a grey line from the audio for each head, as wide
            as its mass, and the colour of the heads.
        values: other numbers to colour the heads by, one for each head of the circuit.
        quantity: what colours the heads, with its unit if it has one.
        least: edges of a smaller recovery, in size, are left out.

    Raises:
        ValueError: for a missing column, no edges, a head without a number, or a negative `least`.
    """
    missing = [name for name in COLUMNS if name not in edges]
    if missing:
        raise ValueError(f"the edges have no column {', '.join(missing)}; circuit_edges gives all")
    if edges.empty:
        raise ValueError("there are no edges; a circuit needs at least one head")
    if least < 0:
        raise ValueError(f"least={least}; give the smallest recovery to draw, 0 or more")
    heads = sorted({end for end in (*edges["sender"], *edges["receiver"]) if end != "logits"})
    heard = None if attention is None else _of_heads(as_array(attention, "layer", "head"), heads)
    shown = heard if values is None else _of_mapping(values, heads)
    drawn = edges[edges["recovery"].abs() >= least]
    places = _places(heads)
    figure = go.Figure()
    if heard is not None:
        figure.add_traces([_from_audio(places, head, share) for head, share in heard.items()])
    largest = float(drawn["recovery"].abs().max() if len(drawn) else 0.0) or 1.0
    for edge in drawn.sort_values("recovery", key=abs).to_dict("records"):
        figure.add_traces(_edge(places, edge, largest))
    figure.add_trace(_nodes(places, heads, edges, shown, text(quantity)))
    figure.add_traces(_ends(places, heard is not None))
    figure.add_traces(_key(drawn))
    return _arranged(figure, places, heads, len(edges) - len(drawn), least)


def _of_heads(attention: Float[np.ndarray, "layer head"], heads: list[Head]) -> dict[Head, float]:
    n_layers, n_heads = attention.shape
    outside = [head for head in heads if head[0] >= n_layers or head[1] >= n_heads]
    if outside:
        raise ValueError(
            f"the circuit has {head_name(*outside[0])}, but attention is of {n_layers} layers x "
            f"{n_heads} heads"
        )
    return {head: float(attention[head]) for head in heads}


def _of_mapping(values: Mapping[Head, float], heads: list[Head]) -> dict[Head, float]:
    without = [head_name(*head) for head in heads if head not in values]
    if without:
        raise ValueError(f"no value for {', '.join(without)}; give one for each head")
    return {head: float(values[head]) for head in heads}


def _places(heads: list[Head]) -> dict[Any, tuple[float, float]]:
    """Where each node stands: a row a layer that has heads, about -1 to 1 across.

    Rows are shifted so that no line straight up from the audio runs through another head.
    """
    layers = sorted({layer for layer, _ in heads})
    rows = [[head for head in heads if head[0] == layer] for layer in layers]
    slot = 2 / max(map(len, rows))
    places: dict[Any, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        even = (2 * np.arange(len(row)) + 1) / len(row) - 1
        taken = np.array([x for x, _ in places.values()] or [9.0])
        shifts = [0.0, *slot * np.linspace(-0.5, 0.5, 13)]
        gaps = [np.abs(even[:, None] + shift - taken).min() for shift in shifts]
        best = even + shifts[int(np.argmax(np.round(gaps, 6)))]
        places |= {head: (float(x), float(number)) for head, x in zip(row, best, strict=True)}
    return places | {"audio": (0.0, -1.0), "logits": (0.0, float(len(layers)))}


def curve(
    start: tuple[float, float], end: tuple[float, float], bend: float = 0.0
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """The points of a line from a node to another, upright at both ends."""
    t = np.linspace(0, 1, 24)
    ease = t * t * (3 - 2 * t)
    x = start[0] + (end[0] - start[0]) * ease + bend * np.sin(np.pi * t)
    return x, start[1] + (end[1] - start[1]) * t


def _from_audio(places: dict[Any, tuple[float, float]], head: Head, share: float) -> go.Scatter:
    """As wide as the head's audio mass; it leaves the bar below the head."""
    x = places[head][0]
    points = curve((x, places["audio"][1]), places[head])
    return go.Scatter(
        x=points[0],
        y=points[1],
        mode="lines",
        line={"width": max(0.3, 8 * share), "color": "rgba(128,128,128,0.35)"},
        hoverinfo="skip",
        showlegend=False,
    )


def _edge(
    places: dict[Any, tuple[float, float]], edge: Mapping[str, Any], largest: float
) -> list[go.Scatter]:
    """A line, and in its middle the place that shows its hover text."""
    sender, receiver, recovery = edge["sender"], edge["receiver"], float(edge["recovery"])
    end = places[receiver]
    if receiver == "logits":  # straight up to the bar
        end = (0.5 * places[sender][0], end[1])
    x, y = curve(places[sender], end, BEND.get(edge["input"], 0.0))
    colour = ORANGE if recovery > 0 else BLUE
    to = "the logits" if receiver == "logits" else head_name(*receiver)
    width = THINNEST + (THICKEST - THINNEST) * abs(recovery) / largest
    line = go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": width, "color": colour, "dash": DASHES.get(edge["input"], "solid")},
        opacity=0.85,
        hoverinfo="skip",
        showlegend=False,
    )
    through = text(INPUTS.get(edge["input"], edge["input"]))
    handle = go.Scatter(
        x=x[8:17],
        y=y[8:17],
        mode="markers",
        marker={"size": 12, "color": colour, "opacity": 0},
        hovertemplate=(
            f"{head_name(*sender)} → {to}, through its {through}<br>"
            f"recovery {recovery:.3f}<extra></extra>"
        ),
        showlegend=False,
    )
    return [line, handle]


def _nodes(
    places: dict[Any, tuple[float, float]],
    heads: list[Head],
    edges: pd.DataFrame,
    shown: dict[Head, float] | None,
    quantity: str,
) -> go.Scatter:
    names = [head_name(*head) for head in heads]
    size = 14 + 7 * max(map(len, names))  # a name lies on its head, which lies on the lines
    marker: dict[str, Any] = {
        "size": size,
        "color": "#5a5a5a",
        "line": {"width": 1.5, "color": INK},
    }
    letters = ["#ffffff"] * len(heads)
    if shown is not None:
        bar = {"title": {"text": quantity, "side": "right"}, "thickness": 12, "len": 0.8}
        numbers = list(shown.values())
        marker |= {"color": numbers, "colorscale": MAGNITUDE, "colorbar": bar}
        if min(numbers) >= 0:
            marker |= {"cmin": 0, "cmax": max(numbers) or 1.0}
        low, high = marker.get("cmin", min(numbers)), marker.get("cmax", max(numbers))
        is_light = [value - low > 0.55 * (high - low) for value in numbers]
        letters = ["#000000" if light else "#ffffff" for light in is_light]
    return go.Scatter(
        x=[places[head][0] for head in heads],
        y=[places[head][1] for head in heads],
        mode="markers+text",
        marker=marker,
        text=[f"<b>{name}</b>" for name in names],
        textposition="middle center",
        textfont={"size": 11, "color": letters},
        hovertext=[_about(head, edges, shown, quantity) for head in heads],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )


def _about(head: Head, edges: pd.DataFrame, shown: dict[Head, float] | None, quantity: str) -> str:
    """A head's number and its strongest edges, drawn or not."""
    lines = [f"<b>{head_name(*head)}</b>"]
    if shown is not None:
        lines.append(f"{quantity} {shown[head]:.3f}")
    for what, column, other in (("tells", "sender", "receiver"), ("hears", "receiver", "sender")):
        own = [edge for edge in edges.to_dict("records") if edge[column] == head]
        for edge in sorted(own, key=lambda edge: -abs(edge["recovery"]))[:4]:
            end = edge[other]
            name = "the logits" if end == "logits" else head_name(*end)
            into = "" if end == "logits" else f" ({edge['input']})"
            lines.append(f"{what} {name}{into}: {edge['recovery']:+.3f}")
    return "<br>".join(lines)


def _ends(places: dict[Any, tuple[float, float]], has_audio: bool) -> list[go.Scatter]:
    """The bars of the audio and of the logits."""
    bars = []
    for name, half in (("audio", 1.04), ("logits", 0.54)):
        if name == "audio" and not has_audio:
            continue
        y = places[name][1]
        bars.append(
            go.Scatter(
                x=[-half, half],
                y=[y, y],
                mode="lines",
                line={"width": 12, "color": INK},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    return bars


def _key(drawn: pd.DataFrame) -> list[go.Scatter]:
    """The legend: what colours and dashes mean, of those that occur."""
    entries = []
    if (drawn["recovery"] > 0).any():
        entries.append(("recovery above 0", ORANGE, "solid"))
    if (drawn["recovery"] < 0).any():
        entries.append(("below 0", BLUE, "solid"))
    into = {"resid": "the logits", "v": "a value", "q": "a query", "k": "a key"}
    kinds = [kind for kind in into if (drawn["input"] == kind).any()]
    entries += [(f"into {into[kind]}", INK, DASHES[kind]) for kind in kinds]
    return [
        go.Scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=name,
            line={"width": 3, "color": colour, "dash": dash},
            hoverinfo="skip",
        )
        for name, colour, dash in entries
    ]


def _arranged(
    figure: go.Figure,
    places: dict[Any, tuple[float, float]],
    heads: list[Head],
    n_left_out: int,
    least: float | int,
) -> go.Figure:
    layers = sorted({layer for layer, _ in heads})
    top = len(layers)
    rows = {row: f"layer {layer}" for row, layer in enumerate(layers)} | {top: "logits"}
    has_audio = any(trace.line.color == "rgba(128,128,128,0.35)" for trace in figure.data)
    rows |= {-1: "audio"} if has_audio else {}
    hidden = {"showgrid": False, "showticklabels": False, "range": [-1.35, 1.35]}
    shown = {"showgrid": False, "tickvals": list(rows), "ticktext": list(rows.values())}
    note = (
        f"{n_left_out} edges of less than {least:g}, or undefined, are left out"
        if n_left_out
        else ""
    )
    return styled(
        figure,
        height=150 + 110 * (top + 1),
        xaxis=hidden | {"title_text": note, "title_font_size": 12, "fixedrange": True},
        yaxis=shown | {"range": [-1.3 if has_audio else -0.5, top + 0.3], "fixedrange": True},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"l": 70, "r": 20, "t": 40, "b": 40},
        hovermode="closest",
    )
