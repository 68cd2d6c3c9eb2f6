"""The page of `lens-audio circuit`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.circuits import Graph
from lens_audio.plots.edges import edge_graph, kind_of
from lens_audio.plots.faithfulness import faithfulness_over_size
from lens_audio.plots.pages.answers import TwoAnswers, answers_section
from lens_audio.plots.pages.circuit_script import SCRIPT, STYLE
from lens_audio.plots.report import (
    code,
    columns,
    escape,
    figure_html,
    label,
    note,
    report,
    safe_json,
    section,
    table_html,
)
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.theme import number
from lens_audio.sites import Head, head_name

EDGE_COLUMNS = ("sender", "receiver", "input", "score", "joins as")
FAITHFULNESS_COLUMNS = ("edges", "faithfulness")
LIMITS = (
    "A score says what corrupting one edge alone does. Where heads stand in for each other, each "
    "edge may score low although all of them together matter.",
    "Scores by gradients are estimates: they miss an edge whose gradient is flat, such as one into a "
    "saturated softmax. --method exact runs every edge.",
    "What both recordings have in common, such as how the choices are found, is in no edge here.",
    "The encoder and the projector are inside embed, and neurons are inside MLPs. Attention inside a "
    "head moves what it reads from one position to another: the graph does not say from where.",
    "Faithfulness asks whether the edges suffice, for this metric and this corruption. It does not say "
    "that they are needed, nor that they are the fewest.",
    "A direct effect is what a node writes straight into the logits. What it does through later nodes "
    "is in the edges, not there.",
)  # fmt: skip


@dataclass(frozen=True)
class Effects:
    """Of the pair that is shown, what was heard and written; lists are of the clean and corrupted run."""

    attention: Float[Tensor, "layer head audio_token"]  # clean, from the last position
    from_audio: list[Float[Tensor, "layer head"]]
    from_text: list[Float[Tensor, "layer head"]]
    mlps: list[Float[Tensor, " layer"]]
    totals: list[float]  # the logit difference


@dataclass(frozen=True, kw_only=True)
class FoundCircuit(TwoAnswers):
    """Two recordings, one question, and the edges that carry the difference."""

    graph: Graph  # keeps the edges of the circuit
    n_all: int  # edges of the model
    curve: pd.DataFrame  # n_edges, faithfulness, low, high
    n_found_on: int  # pairs
    n_judged_on: int
    are_apart: bool  # whether it was judged on other pairs than it was found on
    effects: Effects
    top: int  # how many edges are listed

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
    def edges(self) -> pd.DataFrame:
        """Columns order (from 1), sender, receiver, input and score."""
        graph = self.graph
        rows = [
            (n, graph.senders[i], *graph.receivers[j], float(graph.scores[i, j]))
            for n, (i, j) in enumerate(self.order, 1)
        ]
        return pd.DataFrame(rows, columns=["order", "sender", "receiver", "input", "score"])

    @property
    def strongest(self) -> list[tuple[str, ...]]:
        """The edges of largest score in size, as text under `EDGE_COLUMNS`."""
        largest = self.edges.sort_values("score", key=abs, ascending=False, kind="stable")
        return [
            (
                row["sender"],
                row["receiver"],
                row["input"],
                f"{row['score']:+.3g}",
                f"{row['order']}",
            )
            for row in largest.head(self.top).to_dict("records")
        ]

    @property
    def faithfulness_rows(self) -> list[tuple[str, ...]]:
        """As text under `FAITHFULNESS_COLUMNS`."""
        return [
            (f"{int(row.n_edges):,}", number(row.faithfulness, row.low, row.high))
            for row in self.curve.itertuples()
        ]

    @property
    def said_found(self) -> str:
        """How the edges were found."""
        method, on = self.graph.about["method"], _pairs(self.n_found_on)
        return (
            f"{len(self.graph)} of {self.n_all:,} edges, scored by {method} on {on} and taken "
            "greedily from the logits downward."
        )

    @property
    def said_judged(self) -> str:
        """What faithfulness was measured on."""
        if not self.are_apart:
            return (
                "Found and judged on the same pair, so this flatters the circuit, and there is no "
                "interval: try it on pairs that it was not found on."
            )
        return f"Judged on {_pairs(self.n_judged_on)} that it was not found on; 95 % intervals over pairs."


def _pairs(n: int) -> str:
    return f"{n} pair of recordings" if n == 1 else f"{n} pairs of recordings"


def circuit_page(found: FoundCircuit) -> str:
    """The page: both answers, the graph with its slider, how faithful it is, its strongest edges."""
    return report(
        "Which edges carry the answer?",
        (f"{len(found.graph)} of {found.n_all:,} edges", found.model_name),
        (answers_section(found), _graph(found), _faithfulness(found), _strongest(found), _limits()),
        (escape(found.model_name), code(found.command), escape(found.versions)),
    )


def _graph(found: FoundCircuit) -> str:
    """The slider, the graph, and the panel of a node; all data go into the page as JSON."""
    figure = edge_graph(found.graph)
    names = next(trace for trace in figure.data if trace.mode == "markers+text").customdata
    heads = [_head(name) for name in names if kind_of(name) == "head"]
    heard = _heard(found, heads)
    data = {
        "order": found.order,
        "nodes": {name: _panel(found, name) | heard.get(name, {}) for name in names},
        "faithfulness": [
            [int(row.n_edges), number(row.faithfulness, row.low, row.high)]
            for row in found.curve.itertuples()
        ],
    }
    first = max(heads, key=lambda head: abs(_direct(found, head, 0)), default=(0, 0))
    n = len(found.graph)
    metric = f"logit({escape(found.answer)}) − logit({escape(found.instead)})"
    return section(
        "The circuit",
        note(
            escape(found.said_found)
            + f" A line’s width is its score: by how much {metric} changes when that edge alone is "
            "corrupted. Circles are heads, squares are MLPs, and embed is the sound and the text "
            "as they enter the first layer."
            + (" Diamonds are keys and values that several heads share." * _has_shared(names))
        ),
        f"<style>{STYLE}</style>",
        f'<p class="control"><label for="n-edges">Edges</label><input type="range" id="n-edges" '
        f'min="1" max="{n}" value="{n}" autocomplete="off"><output id="n-shown"></output></p>',
        figure_html(figure, "circuit"),
        _panel_html(found, names, first, head_name(*first) if heads else names[0]) if names else "",
        f'<script type="application/json" id="circuit-facts">{safe_json(json.dumps(data))}</script>',
        f"<script>{SCRIPT}</script>",
    )


def _panel_html(found: FoundCircuit, names: Sequence[str], first: Head, chosen: str) -> str:
    """What a node is chosen with, and the figure of attention, which is of one head at first."""
    shown = _over_time(found, [first])
    shown.data[0].colorbar.title.text = "%"  # a single row has no room for more
    options = "".join(f"<option>{escape(name)}</option>" for name in names)
    return (
        '<div class="panel"><p class="control"><label for="node">Node</label>'
        f'<select id="node" data-first="{escape(chosen)}" autocomplete="off">{options}</select>'
        '<span class="note">or click one in the graph</span></p>'
        '<div id="effect"></div><div id="attention">'
        + label("When it listens: attention from the last position, clean recording")
        + '<audio controls preload="auto" id="again"></audio>'
        + figure_html(shown, "heard", over_time=True)
        + "</div></div>"
    )


def _has_shared(names: Any) -> bool:
    return any(kind_of(name) == "kv" for name in names)


def _head(name: str) -> Head:
    layer, head = name.partition(" ")[0].removeprefix("L").split("H")
    return int(layer), int(head)


def _direct(found: FoundCircuit, head: Head, run: int) -> float:
    return float(found.effects.from_audio[run][head] + found.effects.from_text[run][head])


def _panel(found: FoundCircuit, name: str) -> dict[str, Any]:
    """What the panel says of a node."""
    kind, effects = kind_of(name), found.effects
    metric = f"logit({found.answer}) − logit({found.instead})"
    if kind == "kv":
        said = "Keys and values that several heads read: the dotted lines lead to those of the circuit."
        return {"lines": [said]}
    if kind == "mlp":
        clean, corrupted = (float(of_run[int(name.removeprefix("MLP"))]) for of_run in effects.mlps)
        return {"lines": [_said(metric, clean, corrupted)]}
    head = _head(name)
    audio, text = (float(part[0][head]) for part in (effects.from_audio, effects.from_text))
    lines = [
        _said(metric, _direct(found, head, 0), _direct(found, head, 1)),
        f"In the clean run {audio:+.2f} of it from what the head read of the audio, {text:+.2f} from text.",
        f"Audio mass from the last position: {float(effects.attention[head].sum()):.1%}.",
    ]
    return {"lines": lines}


def _heard(found: FoundCircuit, heads: list[Head]) -> dict[str, dict[str, Any]]:
    """Of each head what the figure's trace of attention has for it, by the head's name."""
    if not heads:
        return {}
    rows = _over_time(found, heads).data[0]
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


def _over_time(found: FoundCircuit, heads: list[Head]) -> go.Figure:
    rows = found.effects.attention[tuple(zip(*heads, strict=True))]
    return attention_over_time(found.clean.prompt, rows, heads, span=found.clean.span)


def _said(metric: str, clean: float, corrupted: float) -> str:
    return (
        f"Direct effect on {metric}: {clean:+.2f} in the clean run, {corrupted:+.2f} in the "
        "corrupted run."
    )


def _faithfulness(found: FoundCircuit) -> str:
    return section(
        "Does the circuit do what the model does?",
        note(
            "Over all other edges, nodes read what was written in the corrupted run. Faithfulness "
            "(m(C) − m(∅)) / (m(M) − m(∅)) is 0 for no edge and 1 for all of them; it may exceed 1 "
            f"where edges that work against the answer are left out. {escape(found.said_judged)}"
        ),
        columns(
            table_html(FAITHFULNESS_COLUMNS, found.faithfulness_rows),
            figure_html(faithfulness_over_size(found.curve), "faithfulness"),
        ),
    )


def _strongest(found: FoundCircuit) -> str:
    return section(
        "Strongest edges",
        table_html(EDGE_COLUMNS, found.strongest),
        note("“Joins as” is the place at which the slider adds the edge."),
    )


def _limits() -> str:
    items = "".join(f"<li>{escape(limit)}</li>" for limit in LIMITS)
    return section("What this does not show", f'<ul class="limits">{items}</ul>')
