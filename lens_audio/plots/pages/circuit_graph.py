"""The part of a page that shows edges: a slider for how many, and a node's attention and effect."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go

from lens_audio.analysis.circuits import Graph
from lens_audio.analysis.circuits.effects import Effects
from lens_audio.inputs import AudioPrompt
from lens_audio.plots.edges import drawn_nodes, edge_graph, head_of, kind_of
from lens_audio.plots.pages.circuit_script import SCRIPT, STYLE
from lens_audio.plots.report import escape, figure_html, label, note, safe_json, section
from lens_audio.plots.sound import attention_over_time
from lens_audio.sites import Head, head_name


@dataclass(frozen=True, kw_only=True)
class ShownGraph:
    """Edges to be looked at, and what is told of their nodes."""

    graph: Graph  # keeps the edges that are shown
    metric: str  # that the scores are of
    effects: Effects
    logits: str  # that the effects are on
    prompt: AudioPrompt  # the clean one, one row
    clip: int = 0
    span: tuple[float, float] | None = None  # seconds that are marked
    faithfulness: Sequence[tuple[int, str]] = ()  # of so many edges, in ascending order
    chosen: str | None = None  # the node that is shown first; by default the strongest head

    @property
    def said_found(self) -> str:
        """How the edges were found."""
        about, n_all = self.graph.about, int(self.graph.nodes.is_edge.sum())
        return (
            f"{len(self.graph)} of {n_all:,} edges, scored by {about['method']} on "
            f"{said_pairs(about['n_examples'])} and taken greedily from the logits downward."
        )

    @cached_property
    def order(self) -> list[tuple[int, int]]:
        """The edges in the order in which the greedy search takes them."""
        before = self.graph.greedy(0).kept
        edges: list[tuple[int, int]] = []
        for n in range(1, len(self.graph) + 1):
            kept = self.graph.greedy(n).kept
            edges += [(int(i), int(j)) for i, j in (kept & ~before).nonzero()]
            before = kept
        return edges

    @cached_property
    def nodes(self) -> list[str]:
        """The nodes that are drawn."""
        return drawn_nodes(self.graph)

    @cached_property
    def heads(self) -> list[Head]:
        """The heads among them."""
        return [head_of(name) for name in self.nodes if kind_of(name) == "head"]


def graph_section(shown: ShownGraph, title: str) -> str:
    """The slider, the graph, and the panel of a node; all data go into the page as JSON.

    The panel's player plays the page's first recording, which must be that of the clean prompt.
    """
    names, n = shown.nodes, len(shown.graph)
    heard = _heard(shown)
    data = {
        "order": shown.order,
        "nodes": {
            name: {"lines": node_lines(shown.effects, shown.logits, name)} | heard.get(name, {})
            for name in names
        },
        "faithfulness": list(shown.faithfulness),
    }
    return section(
        title,
        note(
            escape(shown.said_found)
            + f" A line’s width is its score: by how much {escape(shown.metric)} changes when that "
            "edge alone is corrupted. Circles are heads, squares are MLPs, and embed is the sound and "
            "the text as they enter the first layer."
            + (" Diamonds are keys and values that several heads share." * _has_shared(names))
        ),
        f"<style>{STYLE}</style>",
        f'<p class="control"><label for="n-edges">Edges</label><input type="range" id="n-edges" '
        f'min="1" max="{n}" value="{n}" autocomplete="off"><output id="n-shown"></output></p>',
        figure_html(edge_graph(shown.graph), "circuit"),
        _panel_html(shown) if names else "",
        f'<script type="application/json" id="circuit-facts">{safe_json(json.dumps(data))}</script>',
        f"<script>{SCRIPT}</script>",
    )


def said_pairs(n: int) -> str:
    """A number of pairs in words."""
    return f"{n} pair of recordings" if n == 1 else f"{n} pairs of recordings"


def node_lines(effects: Effects, logits: str, name: str) -> list[str]:
    """What a node writes straight into the logits, in sentences of plain text.

    Args:
        logits: that the effects are on: "logit(glass) − logit(bell)".
        name: of a node that is drawn.

    Raises:
        ValueError: for a name that is no node's.
    """
    kind = kind_of(name)
    if kind == "kv":
        return ["Keys and values that several heads read: the dotted lines lead to those shown."]
    if kind == "mlp":
        clean, corrupted = (float(of_run[_number(name)]) for of_run in effects.mlps)
        return [_said(logits, clean, corrupted)]
    head = head_of(name)
    audio, text = (float(part[0][head]) for part in (effects.from_audio, effects.from_text))
    return [
        _said(logits, _direct(effects, head, 0), _direct(effects, head, 1)),
        f"In the clean run {_signed(audio)} of it from what the head read of the audio, "
        f"{_signed(text)} from text.",
        f"Audio mass from the last position: {float(effects.attention[head].sum()):.1%}.",
    ]


def _number(mlp: str) -> int:
    return int(mlp.partition(" ")[0].removeprefix("MLP"))


def _direct(effects: Effects, head: Head, run: int) -> float:
    return float(effects.from_audio[run][head] + effects.from_text[run][head])


def _said(logits: str, clean: float, corrupted: float) -> str:
    return (
        f"Direct effect on {logits}: {_signed(clean)} in the clean run, {_signed(corrupted)} in the "
        "corrupted run."
    )


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def _panel_html(shown: ShownGraph) -> str:
    """What a node is chosen with, and the figure of attention, which is of one head at first."""
    effects, names = shown.effects, shown.nodes
    strongest = max(shown.heads, key=lambda head: abs(_direct(effects, head, 0)), default=None)
    chosen = shown.chosen
    if chosen not in names:
        chosen = names[0] if strongest is None else head_name(*strongest)
    figure = _over_time(shown, [strongest or (0, 0)])
    figure.data[0].colorbar.title.text = "%"  # a single row has no room for more
    options = "".join(f"<option>{escape(name)}</option>" for name in names)
    again = '<audio controls preload="auto" id="again"></audio>'
    return (
        '<div class="panel"><p class="control"><label for="node">Node</label>'
        f'<select id="node" data-first="{escape(chosen)}" autocomplete="off">{options}</select>'
        '<span class="note">or click one in the graph</span></p>'
        '<div id="effect"></div><div id="attention">'
        + label("When it listens: attention from the last position, clean recording")
        + (again if shown.prompt.waveforms is not None else "")
        + figure_html(figure, "heard", over_time=True)
        + "</div></div>"
    )


def _has_shared(names: Sequence[str]) -> bool:
    return any(kind_of(name) == "kv" for name in names)


def _heard(shown: ShownGraph) -> dict[str, dict[str, Any]]:
    """Of each head what the figure's trace of attention has for it, by the head's name."""
    if not shown.heads:
        return {}
    rows = _over_time(shown, shown.heads).data[0]
    return {
        name: {
            "attention": {
                "x": rows.x.tolist(),
                "y": [name],
                "z": [rows.z[i].tolist()],
                "customdata": [rows.customdata[i].tolist()],
            }
        }
        for i, name in enumerate(rows.y)
    }


def _over_time(shown: ShownGraph, heads: list[Head]) -> go.Figure:
    rows = shown.effects.attention[tuple(zip(*heads, strict=True))]
    return attention_over_time(shown.prompt, rows, heads, clip=shown.clip, span=shown.span)
