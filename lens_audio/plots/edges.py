"""The edges of a circuit as a graph: the embeddings at the bottom, layers up, the logits on top."""

import re
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from lens_audio.analysis.circuits import Graph, Nodes
from lens_audio.plots.circuit import INPUTS, THICKEST, THINNEST, curve
from lens_audio.plots.theme import BLUE, INK, ORANGE, styled
from lens_audio.sites import Head

MOST = 500  # edges of one figure: of more no line can be followed
IN_A_ROW = 9  # nodes, whose names then do not touch in a figure of a column's width
COLUMN = 1.2  # where MLPs stand; heads are between -1 and 1
SIZE, ROW = 34, 62  # pixels: of a node, and from one row to the next
NODE = re.compile(r"(?:MLP(\d+)|L(\d+)(H|KV)(\d+))(?: @(\w+))?")
# Dark enough for white letters, opaque, with a rim that is seen on dark ground.
LOOKS = {
    "head": ("circle", "#4d4d4d"),
    "kv": ("diamond", "#6a5a2f"),
    "mlp": ("square", "#2f5668"),
}
LOOK_SIZES = {"head": SIZE, "kv": SIZE + 12, "mlp": SIZE - 2}
RIM = {"width": 1.2, "color": INK}
CHOSEN = {"width": 3.5, "color": "#ff3d7f"}  # the rim of the node that is looked at
SIGNS = (("works for the metric: score below 0", ORANGE), ("against it: above 0", BLUE))

Place = tuple[float, float]
Bars = tuple[str, str]  # the first sender and the last receiver: "embed" and "logits"


def edge_graph(graph: Graph, chosen: str | None = None) -> go.Figure:
    """The edges that a graph keeps: what each node tells the later ones.

    A line's width is the size of its score. It is orange where the edge works for the metric, which
    falls when the edge is corrupted (a negative score), and blue where it works against it. A head
    is a circle, which also stands for its key-value head where no other head shares that; one
    that is shared is a diamond below the heads that read it, with grey lines to them. MLPs are
    squares on the right. Edges of the encoder begin at its frames and end at the audio.

    Args:
        graph: of `analysis.circuits.edges`, with some edges kept: `graph.greedy(40)`.
        chosen: a node with a rim of its own, such as "L0H1", if it is drawn.

    Raises:
        ValueError: for no edges, or more than 500.
    """
    found = graph.kept_edges().tolist()
    if not found:
        raise ValueError("the graph keeps no edges; keep some, as with graph.greedy(40)")
    if len(found) > MOST:
        raise ValueError(
            f"{len(found)} edges are too many to draw, at most {MOST}; keep fewer, as with "
            "graph.greedy(40)"
        )
    ends = {(i, j): _ends(graph, i, j) for i, j in found}
    nodes = drawn_nodes(graph)
    bars = graph.senders[0].partition(" ")[0], graph.nodes.end
    places, labels = _places(nodes, bars)
    largest = max(abs(float(graph.scores[i, j])) for i, j in found) or 1.0
    figure = go.Figure(_links(graph.nodes, nodes, places))
    for i, j in reversed(found):  # the largest last, on top
        figure.add_traces(_edge(graph, i, j, ends[i, j], bars, places, largest))
    figure.add_traces(_bars(bars, places))
    figure.add_trace(_nodes(graph, nodes, places, ends))
    if chosen in nodes:
        rims = [CHOSEN if node == chosen else RIM for node in nodes]
        line = {key: [rim[key] for rim in rims] for key in RIM}
        figure.data[-1].marker.line = line
    figure.add_traces(_key(graph, found))
    return _arranged(figure, labels)


def drawn_nodes(graph: Graph) -> list[str]:
    """The heads, key-value heads and MLPs at the ends of the edges that a graph keeps, layer by layer."""
    ends = {node for i, j in graph.kept_edges().tolist() for node in _ends(graph, i, j)}
    return sorted(filter(NODE.fullmatch, ends), key=_order)


def _ends(graph: Graph, sender: int, receiver: int) -> tuple[str, str]:
    """The nodes between which an edge is drawn: "embed", "L0H1", "L2KV0", "MLP3", "logits", and the
    group of positions behind an "@" where there are groups.
    """
    return _node(graph.nodes, graph.senders[sender]), _node(
        graph.nodes, graph.receivers[receiver].node
    )


def _node(nodes: Nodes, name: str) -> str:
    """A key-value head that a single head reads is that head; the ends are one whatever the group."""
    if not NODE.fullmatch(name):
        return name.partition(" ")[0]
    return name.replace("KV", "H") if nodes.kv_heads == nodes.n_heads else name


def kind_of(node: str) -> str:
    """What a node is by its name: "head", "kv" or "mlp".

    Raises:
        ValueError: for another name, which has no kind.
    """
    found = NODE.fullmatch(node)
    if found is None:
        raise ValueError(f"{node!r} is no head, key-value head or MLP")
    return "mlp" if found[1] else {"H": "head", "KV": "kv"}[found[3]]


def head_of(node: str) -> Head:
    """The layer and number of a head by its name, whatever its group of positions.

    Raises:
        ValueError: for what is no head.
    """
    found = NODE.fullmatch(node)
    if found is None or found[3] != "H":
        raise ValueError(f"{node!r} is no head")
    return int(found[2]), int(found[4])


def _layer(node: str) -> int:
    found = NODE.fullmatch(node)
    return int((found[1] or found[2]) if found else -1)


def _order(node: str) -> tuple[int, int, int, str]:
    found = NODE.fullmatch(node)
    number = int(found[4] or 0) if found else 0
    return _layer(node), ("kv", "head", "mlp").index(kind_of(node)), number, node


def _places(nodes: list[str], bars: Bars) -> tuple[dict[str, Place], dict[float, str]]:
    """Where nodes stand, and the names of rows: of each layer key-value heads, heads, MLPs.

    Of heads in several rows none stands above another; every second layer is a little to the right.
    """
    places: dict[str, Place] = {bars[0]: (0.0, 0.0)}
    labels, height = {0.0: bars[0]}, 0.0
    for number, layer in enumerate(sorted(set(map(_layer, nodes)))):
        height += 1.0
        labels[height] = f"layer {layer}"
        here = [node for node in nodes if _layer(node) == layer]
        for kind in ("kv", "head", "mlp"):
            row = [node for node in here if kind_of(node) == kind]
            if not row:
                continue
            height += 0.0 if row[0] == here[0] else 1.0 if kind == "head" else 0.6
            n_rows = -(-len(row) // IN_A_ROW)
            for i, node in enumerate(row):
                x = (2 * i + 1 + (0.25 if number % 2 else -0.25)) / len(row) - 1
                if kind == "mlp":
                    x = COLUMN + 0.09 * (2 * i - len(row) + 1)
                places[node] = (x, height + i % n_rows)
            height += n_rows - 1
    places[bars[1]] = (0.0, height + 1)
    return places, labels | {height + 1: bars[1]}


def _edge(
    graph: Graph,
    i: int,
    j: int,
    ends: tuple[str, str],
    bars: Bars,
    places: dict[str, Place],
    largest: float,
) -> list[go.Scatter]:
    """A line, and along its middle what shows its hover text."""
    score, input = float(graph.scores[i, j]), graph.receivers[j].input
    start, end = (places[node] for node in ends)
    if ends[0] == bars[0]:  # from the bar, nearly below
        start = (0.85 * end[0] if ends[1] != bars[1] else -0.95, start[1])
    if ends[1] == bars[1]:
        end = (0.6 * start[0], end[1])
    skipped = min(3.0, abs(end[1] - start[1]) - 1)
    is_column = start[0] > 1 and end[0] > 1
    bend = 0.06 * skipped if is_column else {"q": -0.05, "k": 0.05}.get(input, 0.0)
    x, y = curve(start, end, bend)
    colour = ORANGE if score < 0 else BLUE
    about = {"edge": [i, j], "ends": list(ends)}
    line = go.Scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="lines",
        line={"width": THINNEST + (THICKEST - THINNEST) * abs(score) / largest, "color": colour},
        opacity=0.85,
        hoverinfo="skip",
        showlegend=False,
        meta=about,
    )
    said = f"{graph.senders[i]} → {graph.receivers[j].node}, its {INPUTS[input]}"
    handle = go.Scatter(
        x=x[5:20].tolist(),
        y=y[5:20].tolist(),
        mode="markers",
        marker={"size": 10, "color": colour, "opacity": 0},
        name=f"{graph.senders[i]} → {graph.receivers[j]}: {score:+.3g}",  # in the data as CSV
        hovertemplate=f"{said}<br>score {score:+.3g}<extra></extra>",
        showlegend=False,
        meta=about,
    )
    return [line, handle]


def _links(nodes: Nodes, drawn: list[str], places: dict[str, Place]) -> list[go.Scatter]:
    """Grey lines from shared key-value heads to the heads that read them."""
    links = []
    for head in drawn:
        read = (nodes.receivers[number].node for number in nodes.inputs_of.get(head, []))
        for node in dict.fromkeys(read):
            if node in places and node != head:
                x, y = curve(places[node], places[head])
                links.append(
                    go.Scatter(
                        x=x.tolist(),
                        y=y.tolist(),
                        mode="lines",
                        line={"width": 1.2, "color": INK, "dash": "dot"},
                        hoverinfo="skip",
                        showlegend=False,
                        meta={"link": [node, head]},
                    )
                )
    return links


def _nodes(
    graph: Graph,
    nodes: list[str],
    places: dict[str, Place],
    ends: dict[tuple[int, int], tuple[str, str]],
) -> go.Scatter:
    """Drawn after the lines, opaque: what a name is written on hides what passes below."""
    looks = [LOOKS[kind_of(node)] for node in nodes]
    return go.Scatter(
        x=[places[node][0] for node in nodes],
        y=[places[node][1] for node in nodes],
        mode="markers+text",
        marker={
            "symbol": [symbol for symbol, _ in looks],
            "size": [LOOK_SIZES[kind_of(node)] for node in nodes],
            "color": [colour for _, colour in looks],
            "opacity": 1,
            "line": RIM,
        },
        text=[_written(node) for node in nodes],
        textposition="middle center",
        textfont={"size": 10, "color": "#ffffff"},
        customdata=nodes,
        hovertext=[_about(graph, node, ends) for node in nodes],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
        meta={"nodes": True},
    )


def _written(node: str) -> str:
    """A name in lines: as short as a node is wide."""
    found = NODE.fullmatch(node)
    assert found is not None
    lines = ["MLP", found[1]] if found[1] else [f"L{found[2]}", found[3] + found[4]]
    return "<br>".join([*lines, *([found[5]] if found[5] else [])])


def _about(graph: Graph, node: str, ends: dict[tuple[int, int], tuple[str, str]]) -> str:
    """A node's name and its strongest edges."""
    lines = [f"<b>{node}</b>"]
    for what, own in (("tells", 0), ("hears", 1)):
        some = [edge for edge, pair in ends.items() if pair[own] == node]  # the largest first
        for i, j in some[:4]:
            other = str(graph.receivers[j]) if own == 0 else graph.senders[i]
            into = f" ({graph.receivers[j].input})" if own == 1 else ""
            lines.append(f"{what} {other}{into}: {float(graph.scores[i, j]):+.3g}")
    return "<br>".join(lines)


def _bars(bars: Bars, places: dict[str, Place]) -> list[go.Scatter]:
    """The first sender and the last receiver."""
    return [
        go.Scatter(
            x=[-1, end],
            y=[places[name][1]] * 2,
            mode="lines",
            line={"width": 12, "color": INK},
            hoverinfo="skip",
            showlegend=False,
        )
        for name, end in zip(bars, (COLUMN, 1), strict=True)
    ]


def _key(graph: Graph, found: Iterable[Any]) -> list[go.Scatter]:
    """What the colours mean, of those that occur."""
    signs = {float(graph.scores[i, j]) < 0 for i, j in found}
    return [
        go.Scatter(
            x=[None], y=[None], mode="lines", name=name, line={"width": 3, "color": colour},
            hoverinfo="skip",
        )
        for is_for, (name, colour) in zip((True, False), SIGNS, strict=True)
        if is_for in signs
    ]  # fmt: skip


def _arranged(figure: go.Figure, labels: dict[float, str]) -> go.Figure:
    top = max(labels)
    shown = {"showgrid": False, "tickvals": list(labels), "ticktext": list(labels.values())}
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    return styled(
        figure,
        height=int(80 + ROW * (top + 0.8)),
        xaxis={"showgrid": False, "showticklabels": False, "range": [-1.12, 1.5],
               "fixedrange": True},
        yaxis=shown | {"range": [-0.3, top + 0.5], "fixedrange": True},
        legend=legend | {"itemclick": False, "itemdoubleclick": False},
        margin={"l": 70, "r": 10, "t": 50, "b": 20},
        hovermode="closest",
    )  # fmt: skip
