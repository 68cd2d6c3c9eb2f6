"""The working set of heads: add, remove, knock out, keep only, take away."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from lens_audio.analysis.circuit import Circuit, Head
from lens_audio.explorer.parts import FigureView, Status, dropdown, heading
from lens_audio.explorer.session import METRICS, Session
from lens_audio.explorer.state import MODES
from lens_audio.plots.choices import answer_probabilities
from lens_audio.plots.report import escape
from lens_audio.sites import head_name


class MetricChoice(widgets.HBox):
    """Which metric, of which answers."""

    def __init__(self, session: Session) -> None:
        answer, instead = session.default_answers
        options = [(name, number) for number, name in enumerate(session.candidates)]
        self.name = dropdown("metric", METRICS, METRICS[0])
        self.answer = dropdown("of", options, answer)
        self.instead = dropdown("against", options, instead)
        super().__init__([self.name, self.answer, self.instead], layout={"flex_flow": "wrap"})
        self.name.observe(self._show, "value")

    @property
    def key(self) -> tuple[str, int, int]:
        """As `Session.metric` takes it."""
        return self.name.value, self.answer.value, self.instead.value

    def choose(self, key: tuple[str, int, int]) -> None:
        """Set what `key` gives."""
        self.name.value, self.answer.value, self.instead.value = key

    def on_change(self, function: Callable[..., None]) -> None:
        """Call a function whenever another metric is chosen."""
        for choice in (self.name, self.answer, self.instead):
            choice.observe(function, "value")

    def _show(self, change: dict) -> None:
        shown = change["new"] == METRICS[0]
        self.instead.layout.display = "" if shown else "none"


class CircuitPanel(widgets.VBox):
    """The answers' probabilities, and what the working set of heads does to them."""

    def __init__(
        self, session: Session, metric: MetricChoice, on_change: Callable[[], None]
    ) -> None:
        self.session, self.metric, self._on_change = session, metric, on_change
        self.circuit = Circuit(())
        self.status = Status()
        self.figure = FigureView(self._answers({}))
        self.mode = widgets.ToggleButtons(options=list(MODES), style={"button_width": "auto"})
        self.tags = widgets.HBox(layout={"flex_flow": "wrap"})
        self.outcome = widgets.HTML()
        self.export = widgets.HTML()
        taken = widgets.Accordion([self.export], titles=("Take it away: code and JSON",))
        super().__init__(
            [
                heading("Answers"),
                metric,
                self.figure,
                heading("Working set of heads", "z of the others, or of these, is corrupted."),
                self.tags,
                self.mode,
                self.outcome,
                self.status,
                taken,
            ]
        )
        self.mode.observe(lambda _: self.update(), "value")
        metric.on_change(lambda _: self.update())
        self._show_tags()

    def set(self, circuit: Circuit) -> None:
        """Show another working set."""
        self.circuit = circuit
        self._show_tags()
        self.update()
        self._on_change()

    def update(self) -> None:
        """Run the working set as the mode says and show what becomes of the answers."""
        self.status.reporting(self._update)()

    def _update(self) -> None:
        self.status.value = self.outcome.value = ""
        self.figure.become(self._answers({}))
        self._show_export()
        keep = MODES[self.mode.value]
        if keep is not None:
            outcome, probabilities = self.session.run_circuit(self.circuit, keep, self.metric.key)
            edited = {"only these heads" if keep else "without these heads": probabilities}
            whole, none = float(outcome.whole.mean()), float(outcome.none.mean())
            name = "faithfulness" if keep else "what is left"
            metric = escape(self.session.metric(*self.metric.key).name)
            self.outcome.value = (
                f"<b>{name} {outcome.faithfulness:.3f}</b> · {metric} "
                f"{float(outcome.metric.mean()):.3f} (all heads clean {whole:.3f}, none {none:.3f})"
            )
            self.figure.become(self._answers(edited))

    def _answers(self, edited: dict[str, list[float]]) -> Any:
        runs = self.session.unedited | edited
        return answer_probabilities(self.session.candidates, runs, quantity=self.session.quantity)

    def _show_tags(self) -> None:
        tags = []
        for head in self.circuit.heads:
            tag = widgets.Button(
                description=head_name(*head), icon="times", tooltip="take it out of the set",
                layout={"width": "auto"},
            )  # fmt: skip
            remove = self.status.reporting(
                lambda _, head=head: self.set(self.circuit.removed(head))
            )
            tag.on_click(remove)
            tags.append(tag)
        none = widgets.HTML('<span class="note">No head yet: click one, then add it.</span>')
        self.tags.children = tags or [none]
        self._show_export()

    def _show_export(self) -> None:
        code, json = escape(self.to_code()), escape(self.circuit.to_json(**self.about()))
        self.export.value = f"<pre>{code}</pre><pre>{json}</pre>"

    def to_code(self) -> str:
        """Python that makes this circuit and tests it; model and prompts are yours."""
        name, answer, instead = self.metric.key
        tokens = self.session.tokens
        made = {
            "logit difference": f"logit_diff({tokens[answer]}, {tokens[instead]})",
            "log probability": f"log_prob({tokens[answer]})",
            "probability": f"probability({tokens[answer]})",
        }[name]
        prompts = "clean, corrupted, metric"
        if self.session.pair.fit is not None:
            prompts = "pair, metric=metric"
        return (
            "import lens_audio as la\n\n"
            f"circuit = {self.circuit.to_code()}\n"
            f"metric = la.analysis.metrics.{made}\n"
            f"test = la.analysis.CircuitTest(model, {prompts})\n"
            "print(test.only(circuit).faithfulness, test.without(circuit).faithfulness)"
        )

    def about(self) -> dict[str, Any]:
        """What a circuit's JSON should say besides its heads."""
        name, answer, instead = self.metric.key
        about: dict[str, Any] = {
            "model": self.session.model.cfg.model_name,
            "metric": name,
            "answer": self.session.candidates[answer],
        }
        if name == METRICS[0]:
            about["against"] = self.session.candidates[instead]
        return about

    def add(self, head: Head) -> None:
        """One head more."""
        self.set(self.circuit.added(head))
