"""The edges that carry the difference between both recordings: found, drawn, looked at."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any

import ipywidgets as widgets

from lens_audio.analysis.circuits import Graph
from lens_audio.explorer.circuit_panel import MetricChoice
from lens_audio.explorer.parts import FigureView, Status, dropdown, heading, strip
from lens_audio.explorer.session import Session
from lens_audio.explorer.state import EDGE_METHODS, MOST_EDGES, EdgesState, FoundEdges
from lens_audio.explorer.work import Work
from lens_audio.plots.edges import drawn_nodes, edge_graph, head_of, kind_of
from lens_audio.plots.pages.circuit_graph import node_lines
from lens_audio.plots.report import escape
from lens_audio.plots.theme import BLUE
from lens_audio.sites import Head, head_name

DENSE = 'style="line-height: 1.4"'  # of several lines; a widget's own are those of buttons


class EdgesPanel(widgets.VBox):
    """Find the edges, choose how many are shown; `graph` keeps these.

    Args:
        on_head: told of a head that is clicked, which calls `tell`.
        on_heads: told of heads that are to join the working set.
    """

    def __init__(
        self,
        session: Session,
        metric: MetricChoice,
        on_head: Callable[[int, int], None],
        on_heads: Callable[[Sequence[Head]], None],
    ) -> None:
        self.session, self.metric = session, metric
        self._on_head, self._on_heads = on_head, on_heads
        self.found: FoundEdges | None = None
        self.node = ""  # that is told of
        self.status = Status()
        self.method = dropdown("method", EDGE_METHODS, EdgesState.method)
        self.work = Work("Find edges", self._steps, self.status, self._stopped)
        self.run, self.stop = self.work.run, self.work.stop
        self.n_edges = widgets.IntSlider(
            EdgesState.n_edges, min=1, max=MOST_EDGES, description="edges", continuous_update=False,
            style={"description_width": "initial"}, layout={"width": "340px"},
        )  # fmt: skip
        auto = {"width": "auto"}
        self.judge = widgets.Button(description="Faithfulness of these edges", layout=auto)
        self.add = widgets.Button(
            description="Add these heads to the working set", icon="plus", layout=auto
        )
        self.outcome = widgets.HTML(layout={"width": "100%"})
        self.told = widgets.HTML(layout={"flex": "1 1 260px", "min_width": "0"})
        self.figure: FigureView | None = None  # made when there is something to draw
        self.drawn = widgets.VBox()
        note = (
            "Which node tells which: a line's width is by how much the metric changes when that edge "
            "alone is corrupted. Click a circle to select that head (when it listens is shown above, "
            "with the sound), a square to read of that MLP."
        )
        wrap = {"flex_flow": "wrap"}
        self._choices = widgets.HBox([self.n_edges, self.judge, self.add], layout=wrap)
        super().__init__(
            [
                heading("Edges", note),
                widgets.HBox([self.method, self.work], layout=wrap),
                self.status,
                self.drawn,
            ]
        )
        self.n_edges.observe(self.status.reporting(lambda _: self._draw()), "value")
        self.judge.on_click(self.status.reporting(lambda _: self._judge()))
        self.add.on_click(self.status.reporting(lambda _: self._add()))

    @property
    def graph(self) -> Graph | None:
        """The edges that are shown, with their scores; None before any were found."""
        return None if self.found is None else self.found.graph.greedy(self.n_edges.value)

    @property
    def edges(self) -> EdgesState:
        """What is chosen, and the edges that were found."""
        return EdgesState(self.method.value, self.n_edges.value, self.found)

    def start(self) -> None:
        """Find edges: beside the event loop where there is one, else to the end."""
        self.work.start()

    def show(self, edges: EdgesState) -> None:
        """Choose this, and draw what was found."""
        self.work.halt()
        self.n_edges.max = MOST_EDGES
        self.method.value, self.n_edges.value = edges.method, edges.n_edges
        if edges.found is not None:
            self._show(edges.found)
            self.status.say("As it was saved. In Python: explorer.edges.graph")

    def tell(self, node: str) -> None:
        """Mark a node, and say what it writes straight into the logits."""
        self.node = node
        self.status.reporting(self._draw)()

    def _steps(self) -> Iterator[None]:
        """Find edges; a step ends after every run."""
        key = self.metric.key
        steps = self.session.edges(key, self.method.value)
        self.status.say("Running both prompts …")
        graph = None
        for done, total, found in steps:
            graph = found
            self.work.show(done, total)
            self.status.say(f"{done} of {total} runs")
            yield
        assert graph is not None
        if not bool(graph.scores.any()):
            raise ValueError(
                "every edge scores 0: the clean and the corrupted prompt are the same, or "
                f"{graph.about['metric']} is flat at the clean run; explore another corrupted "
                "recording, or choose another metric"
            )
        self._show(FoundEdges(graph.greedy(min(MOST_EDGES, len(graph))), key))
        self.status.say("Found. In Python: explorer.edges.graph")

    def _stopped(self) -> None:
        done = self.work.progress
        self.status.say(f"Stopped after {done.value} of {done.max} runs.")

    def _show(self, found: FoundEdges) -> None:
        self.session.direct_effects(found.metric)  # an error leaves what was shown before
        self.found = found
        self.n_edges.max = len(found.graph)
        self._draw()

    def _draw(self) -> None:
        """The edges, what they come to, and the node that is looked at."""
        graph = self.graph
        if graph is None:
            return
        figure = edge_graph(graph, self.node)
        if self.figure is None:
            self.figure = FigureView(figure)
            beside = {"flex": "3 1 480px", "min_width": "0", "overflow": "hidden"}
            drawn = [widgets.VBox([self.figure], layout=beside), self.told]
            row = widgets.HBox(drawn, layout={"flex_flow": "wrap-reverse", "grid_gap": "20px"})
            self.drawn.children = [self._choices, self.outcome, row]
        else:
            self.figure.become(figure)
        nodes = next(trace for trace in self.figure.data if trace.mode == "markers+text")
        nodes.on_click(self.status.reporting(self._clicked))
        self.add.disabled = not _heads(graph)
        self._say()

    def _say(self) -> None:
        assert self.found is not None
        graph, about = self.found.graph, self.found.graph.about
        n_all, n = int(graph.nodes.is_edge.sum()), self.n_edges.value
        value = self.found.faithfulness.get(n)
        judged = "" if value is None else f" · <b>faithfulness {value:.3f}</b>"
        self.outcome.value = (
            f"<div {DENSE}><b>{n} of {n_all:,} edges</b>, taken greedily from the logits downward; "
            f"scored by {about['method']} on {escape(about['metric'])}{judged}</div>"
        )
        logits, effects = self.session.direct_effects(self.found.metric)
        lines = [f"<b>{self.node}</b>", *map(escape, node_lines(effects, logits, self.node))]
        self.told.value = f"<div {DENSE}>{'<br>'.join(lines)}</div>"
        if kind_of(self.node) == "head":
            title = "clean run: attention on the audio, token by token"
            self.told.value += strip(effects.attention[head_of(self.node)], title, BLUE)

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if not points.point_inds:
            return
        node = trace.customdata[points.point_inds[0]]
        if kind_of(node) == "head":
            self._on_head(*head_of(node))
        else:
            self.tell(node)

    def _judge(self) -> None:
        """Run the edges that are shown, alone."""
        found, graph = self.found, self.graph
        assert found is not None
        assert graph is not None
        value = self.session.faithfulness(graph, found.metric)
        if not isfinite(value):
            raise ValueError(
                "faithfulness is undefined: without any edge the metric is what it is with all; "
                "choose another metric and find edges again"
            )
        found.faithfulness[self.n_edges.value] = value
        self._say()

    def _add(self) -> None:
        graph = self.graph
        assert graph is not None
        heads = _heads(graph)
        self._on_heads(heads)
        self.status.say(f"In the working set: {', '.join(head_name(*head) for head in heads)}")


def _heads(graph: Graph) -> list[Head]:
    return [head_of(node) for node in drawn_nodes(graph) if kind_of(node) == "head"]
