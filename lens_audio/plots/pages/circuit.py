"""The page of `lens-audio circuit`."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lens_audio.analysis.circuits import Graph
from lens_audio.analysis.circuits.effects import Effects
from lens_audio.plots.faithfulness import faithfulness_over_size
from lens_audio.plots.pages.answers import TwoAnswers, answers_section
from lens_audio.plots.pages.circuit_graph import ShownGraph, graph_section, said_pairs
from lens_audio.plots.report import (
    code,
    columns,
    escape,
    figure_html,
    note,
    report,
    section,
    table_html,
)
from lens_audio.plots.theme import number

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


@dataclass(frozen=True, kw_only=True)
class FoundCircuit:
    """Two recordings, one question, and the edges that carry the difference."""

    both: TwoAnswers
    graph: Graph  # keeps the edges of the circuit
    n_all: int  # edges of the model
    curve: pd.DataFrame  # n_edges, faithfulness, low, high
    n_found_on: int  # pairs
    n_judged_on: int
    are_apart: bool  # whether it was judged on other pairs than it was found on
    effects: Effects
    top: int  # how many edges are listed

    @cached_property
    def shown(self) -> ShownGraph:
        """The graph, and what is told of its nodes."""
        metric = f"logit({self.both.answer}) − logit({self.both.instead})"
        return ShownGraph(
            graph=self.graph,
            metric=metric,
            effects=self.effects,
            logits=metric,
            prompt=self.both.clean.prompt,
            span=self.both.clean.span,
            faithfulness=[
                (int(row.n_edges), number(row.faithfulness, row.low, row.high))
                for row in self.curve.itertuples()
            ],
        )

    @cached_property
    def edges(self) -> pd.DataFrame:
        """Columns order (from 1), sender, receiver, input and score."""
        graph = self.graph
        rows = [
            (n, graph.senders[i], *graph.receivers[j], float(graph.scores[i, j]))
            for n, (i, j) in enumerate(self.shown.order, 1)
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
        return self.shown.said_found

    @property
    def said_judged(self) -> str:
        """What faithfulness was measured on."""
        if not self.are_apart:
            return (
                "Found and judged on the same pair, so this flatters the circuit, and there is no "
                "interval: try it on pairs that it was not found on."
            )
        on = said_pairs(self.n_judged_on)
        return f"Judged on {on} that it was not found on; 95 % intervals over pairs."


def circuit_page(found: FoundCircuit) -> str:
    """The page: both answers, the graph with its slider, how faithful it is, its strongest edges."""
    return report(
        "Which edges carry the answer?",
        (f"{len(found.graph)} of {found.n_all:,} edges", found.both.model_name),
        (
            answers_section(found.both),
            graph_section(found.shown, "The circuit"),
            _faithfulness(found),
            _strongest(found),
            _limits(),
        ),
        (escape(found.both.model_name), code(found.both.command), escape(found.both.versions)),
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
