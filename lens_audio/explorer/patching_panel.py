"""Patching sweeps that fill in while they run."""

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import ipywidgets as widgets

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.explorer.circuit_panel import MetricChoice
from lens_audio.explorer.parts import FigureView, Status, dropdown, heading
from lens_audio.explorer.player import OVER_TIME
from lens_audio.explorer.session import SITES, Session
from lens_audio.explorer.state import SweepState
from lens_audio.explorer.work import Work
from lens_audio.plots.patching import WINDOW, patching_heatmap

NAMES = {
    "head": "layer × head",
    "window": "layer × time",
    "group": "layer × token group",
    "position": "layer × position",
}
DIRECTIONS = {"clean into corrupted (denoise)": "denoise", "corrupted into clean (noise)": "noise"}
SECONDS = 0.4  # between two drawings


class PatchingPanel(widgets.VBox):
    """Choose what to patch, run it, stop it; `result` is the last sweep."""

    def __init__(
        self,
        session: Session,
        metric: MetricChoice,
        on_heads: Callable[[PatchingResult], None],
        on_cell: Callable[[dict[str, str]], None],
    ) -> None:
        self.session, self.metric = session, metric
        self._on_heads, self._on_cell = on_heads, on_cell
        self.result: PatchingResult | None = None
        self.shown = ("", "")  # kind and site of the result
        self.status = Status()
        self.site = dropdown("site", [site for site in SITES if session.kinds(site)], "z")
        self.kind = dropdown("by", [], None)
        self.direction = dropdown("patch", DIRECTIONS, "denoise")
        self.window = widgets.BoundedFloatText(
            0.25, min=0.04, max=30.0, step=0.05, description="window (s)",
            style={"description_width": "initial"}, layout={"width": "150px"},
        )  # fmt: skip
        self.work = Work("Run", self._steps, self.status, self._stopped)
        self.run, self.stop = self.work.run, self.work.stop
        self.figure: FigureView | None = None  # made when there is something to draw
        self.drawn = widgets.Box(layout={"display": "block"})
        note = (
            "Recovery: 0, the patch does nothing; 1, as much as the whole source run. Click a cell to "
            "select its head, or its layer and time."
        )
        super().__init__(
            [
                heading("Activation patching", note),
                widgets.HBox(
                    [self.site, self.kind, self.window, self.direction],
                    layout={"flex_flow": "wrap"},
                ),
                self.work,
                self.status,
                self.drawn,
            ]
        )
        self.site.observe(self.status.reporting(lambda _: self._show_kinds()), "value")
        self.kind.observe(self.status.reporting(lambda _: self._show_window()), "value")
        self._show_kinds()

    def start(self) -> None:
        """Run the sweep: beside the event loop where there is one, else to its end."""
        self.work.start()

    def halt(self) -> None:
        """Stop a running sweep; what it found stays."""
        self.work.halt()

    def _stopped(self) -> None:
        self._draw()
        done = self.work.progress
        self.status.say(f"Stopped at {done.value} of {done.max} cells.")

    def _steps(self) -> Iterator[None]:
        """Run, drawing now and then; a step ends whenever something was drawn."""
        kind, site = self.shown = self.kind.value, self.site.value
        window = float(self.window.value)
        steps = self.session.sweep(kind, site, self.metric.key, self.direction.value, window)
        self.status.say("Running both prompts …")
        drawn = 0.0
        for done, total, self.result in steps:
            self.work.show(done, total)
            if monotonic() - drawn > SECONDS and done:
                self._draw()
                self.status.say(f"{done} of {total} cells")
                drawn = monotonic()
                yield
        self._draw()
        patched = self.session.what_is_patched(kind, site, window)
        self.status.say(f"{total} cells; each patches {patched}. In Python: explorer.result")
        if kind == "head" and self.result is not None:
            self._on_heads(self.result)

    def _draw(self) -> None:
        assert self.result is not None
        labels = self.session.position_labels(*self.shown, self.result)
        figure = patching_heatmap(self.result, recovery=True, labels=labels, missing="not run yet")
        if self.figure is None:
            self.figure = FigureView(figure)
            self.drawn.children = [self.figure]
        else:
            self.figure.become(figure)
        over_time = figure.layout.xaxis.title.text == "time (s)"
        (self.figure.add_class if over_time else self.figure.remove_class)(OVER_TIME)
        for trace in self.figure.data:
            trace.on_click(self.status.reporting(self._clicked))

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        """Tell which cell was clicked: its labels by axis, of the axes that vary."""
        if self.result is None or not points.xs:
            return
        axes = {name: labels for name, labels in self.result.axes.items()
                if name not in ("metric", "example") and len(labels) > 1}  # fmt: skip
        places = (points.xs[0],) if len(axes) == 1 else (points.ys[0], points.xs[0])
        cell = {name: _at(labels, place) for (name, labels), place
                in zip(axes.items(), places, strict=False)}  # fmt: skip
        self._on_cell(cell)

    @property
    def sweep(self) -> SweepState:
        """What is chosen, and the last result."""
        if self.result is not None:
            kind, site = self.shown
            direction = str(self.result.about["direction"])
        else:
            kind, site, direction = self.kind.value, self.site.value, self.direction.value
        return SweepState(site, kind, direction, float(self.window.value), self.result)

    def show(self, sweep: SweepState) -> None:
        """Choose this, and draw its result."""
        self.halt()
        self.site.value, self.kind.value = sweep.site, sweep.by
        self.direction.value, self.window.value = sweep.direction, sweep.window
        self.result, self.shown = sweep.result, (sweep.by, sweep.site)
        if self.result is not None:
            self._draw()
            self.status.say("As it was saved. In Python: explorer.result")
            if sweep.by == "head":
                self._on_heads(self.result)

    def _show_kinds(self) -> None:
        kinds = self.session.kinds(self.site.value)
        kept = self.kind.value if self.kind.value in kinds else kinds[0]
        self.kind.options = [(NAMES[kind], kind) for kind in kinds]
        self.kind.value = kept
        self._show_window()

    def _show_window(self) -> None:
        self.window.layout.display = "" if self.kind.value == "window" else "none"


def _at(labels: list[str], place: float | int) -> str:
    """The label at a place of an axis: a number of the entry, or a time where labels are windows."""
    windows = [WINDOW.fullmatch(label) for label in labels]
    if all(windows):
        ends = [float(window[2]) for window in windows if window]
        return next(
            (label for label, end in zip(labels, ends, strict=True) if place < end), labels[-1]
        )
    return labels[int(place)]
