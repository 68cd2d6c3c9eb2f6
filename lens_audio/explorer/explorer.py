"""The explorer itself: the head map, and what it opens."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch

from lens_audio.analysis.attention import top_heads
from lens_audio.analysis.circuit import Circuit, Head
from lens_audio.analysis.listening import check_heads
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.explorer.circuit_panel import CircuitPanel, MetricChoice
from lens_audio.explorer.edges_panel import EdgesPanel
from lens_audio.explorer.parts import FigureView, Status, dropdown, heading, strip
from lens_audio.explorer.patching_panel import PatchingPanel
from lens_audio.explorer.player import OVER_TIME, ROOT, Player
from lens_audio.explorer.saving_panel import SavingPanel
from lens_audio.explorer.session import ROLES, Session, Span
from lens_audio.explorer.state import DIFFERENCE, MASS, State, recovery_name, write_state
from lens_audio.explorer.static import edges_sections
from lens_audio.plots.heads import head_map
from lens_audio.plots.pages.explorer import explorer_page
from lens_audio.plots.patching import WINDOW
from lens_audio.plots.report import escape, note, write_page
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.theme import BLUE
from lens_audio.plots.tokens import token_attention
from lens_audio.sites import Site, head_name

MOST_ROWS = 12  # heads over time
TITLE = 28  # pixels
OUTLINES = "Dotted: the head looked at. Outlined: the working set."


class Explorer(widgets.VBox):
    """Heads, patching and circuits of one question. Made by `la.explore`.

    From code: `select(layer, head)`, `circuit` and `span` (which can be set), `result` (of the last
    sweep), `patching.start()`, `edges.start()`, `edges.graph`, `to_code()`, `save(path)`.
    """

    def __init__(self, session: Session, state: State | None = None) -> None:
        self.session = session
        self.head: Head = top_heads(session.mass("clean"), 1)[0]
        self.status = Status()
        self.role = dropdown("run", ROLES, "clean")
        self.clip = dropdown("clip", range(len(session.clean.clips_of(0))), 0)
        self.clip.layout.display = "" if len(self.clip.options) > 1 else "none"
        self.quantity = dropdown("show", (MASS, DIFFERENCE), MASS)
        self.seconds = self._span_slider()
        self.chosen = widgets.HTML()
        self.looked_at = widgets.HTML(layout={"width": "100%"})
        self.add = widgets.Button(icon="plus", layout={"width": "auto", "flex": "0 0 auto"})
        self._recovery: dict[str, Any] = {}  # by the name it has above the map
        metric = MetricChoice(session)
        self.answers = CircuitPanel(session, metric, self._show_heads)
        self.patching = PatchingPanel(session, metric, self._keep_recovery, self._select_cell)
        self.edges = EdgesPanel(session, metric, self.select, self._add_heads)
        self.edges.tell(head_name(*self.head))
        self.saving = SavingPanel(self.save)
        self.map = FigureView(self._head_map())
        self.time = FigureView(self._over_time())
        self.time.add_class(OVER_TIME)
        self.tokens = FigureView(self._tokens())
        self.player = Player(session)
        self._compose()
        self._listen()
        self._show_head()
        if state is not None:
            self._reopen(state)

    @property
    def circuit(self) -> Circuit:
        """The working set of heads."""
        return self.answers.circuit

    @circuit.setter
    def circuit(self, heads: Any) -> None:
        circuit = Circuit.of(heads)
        for head in circuit.heads:
            self._check(head)
        self.answers.set(circuit)

    @property
    def result(self) -> PatchingResult | None:
        """The last sweep, whole or as far as it came."""
        return self.patching.result

    @property
    def span(self) -> Span | None:
        """The seconds of the clip that audio mass is counted on; None is the whole."""
        start, end = self.seconds.value
        is_whole = (start, end) == (self.seconds.min, self.seconds.max)
        return None if is_whole else (start, end)

    @span.setter
    def span(self, span: Any) -> None:
        span = self.session.check_span(span, self.clip.value)
        self.seconds.value = span or (self.seconds.min, self.seconds.max)

    @property
    def state(self) -> State:
        """All that was chosen, written or computed: what `save` keeps."""
        sweep = self.patching.sweep
        kept = (MASS, DIFFERENCE, *([recovery_name(sweep.result)] if sweep.result else []))
        shown = self.quantity.value
        return State(
            selection=self.head, metric=self.answers.metric.key, working_set=self.circuit,
            mode=self.answers.mode.value, run=self.role.value, clip=self.clip.value, span=self.span,
            show=shown if shown in kept else MASS, sweep=sweep, edges=self.edges.edges,
            notes=self.saving.notes.value,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what is shown, whole or not at all: the state (`.json`), or a page (`.html`).

        `la.explore(model, prompt, state=path)` opens a state again; a page needs no Python.

        Raises:
            ValueError: for another suffix.
            OSError: if the file cannot be written.
        """
        if Path(path).suffix == ".json":
            return write_state(path, self.state, self.session)
        if Path(path).suffix == ".html":
            return write_page(path, self.html())
        raise ValueError(f"{path}: a name that ends in .json (the state) or .html (a page)")

    def html(self) -> str:
        """What is shown, as a page of its own."""
        self.status.reporting(self._show_effect)()
        outcome = f'<p style="margin-top: 14px">{self.answers.outcome.value}</p>'
        below = f"{note(OUTLINES)}<p>{self.chosen.value}</p>{self._about_head()}"
        figures = {
            "Answers": (self.answers.figure.static(), outcome),
            f"Heads: {self.quantity.value}": (self.map.static(), below),
            "Over time": (self.time.static(), ""),
            f"Tokens: {head_name(*self.head)}": (self.tokens.static(), ""),
        }
        if self.patching.figure is not None:
            site = self.patching.shown[1]
            figures[f"Activation patching: {site}"] = (self.patching.figure.static(), "")
        edges = edges_sections(self.session, self.edges.edges, self.clip.value, self.head)
        return explorer_page(
            {role: self.session.prompt(role) for role in ROLES}, figures, clip=self.clip.value,
            about=(self.session.model_title, f"working set: {self.circuit}"),
            question=self.session.question, sections=edges, notes=self.saving.notes.value,
            circuit=self.to_code() if len(self.circuit) else "",
        )  # fmt: skip

    def select(self, layer: int, head: int) -> None:
        """Look at one head: its attention over time and over tokens, and the answer without it.

        Raises:
            ValueError: for a head that does not exist.
        """
        self._check((layer, head))
        self.head = (layer, head)
        self._show_heads()
        self.tokens.become(self._tokens())
        self.edges.tell(head_name(layer, head))
        self.status.reporting(self._show_effect)()

    def to_code(self) -> str:
        """Python that makes and tests the working set."""
        return self.answers.to_code()

    def __repr__(self) -> str:
        return (
            f"Explorer({self.session.model.cfg.model_name}, {self.session.clean!r}): a widget, to "
            "be shown by Jupyter"
        )

    def _compose(self) -> None:
        left = widgets.VBox(
            [
                heading("Heads", f"Click a head to look at it. {OUTLINES}"),
                widgets.HBox(
                    [self.role, self.quantity, self.seconds], layout={"flex_flow": "wrap"}
                ),
                self.map,
                widgets.HBox([self.chosen, self.add], layout={"flex_flow": "wrap"}),
                self.looked_at,
                self.status,
            ],
            layout={"flex": "1 1 420px", "min_width": "0", "overflow": "hidden"},
        )
        self.answers.layout = {"flex": "1 1 420px", "min_width": "0", "overflow": "hidden"}
        top = widgets.HBox([left, self.answers], layout={"flex_flow": "wrap", "grid_gap": "20px"})
        over_time = widgets.VBox(
            [
                heading(
                    "Over time",
                    f"The selected head, the working set, the strongest heads: {MOST_ROWS} at most. "
                    "Click to move the playhead.",
                ),
                self.clip,
                self.time,
            ]
        )
        pages = {"Tokens": self.tokens, "Patching": self.patching, "Edges": self.edges}
        tabs = widgets.Tab(list(pages.values()), titles=tuple(pages))
        clean = self.session.clean
        title = (
            f"<h3>Model: {escape(self.session.model_title)}</h3><div class='note'>"
            f"{sum(map(clean.clip_seconds, clean.clips_of(0))):.2f} s of audio, "
            f"{int(clean.audio_mask.sum())} audio tokens of {clean.tokens.shape[1]}</div>"
        )
        self.tabs = tabs
        parts = [widgets.HTML(title), self.player, top, over_time, tabs, self.saving]
        super().__init__(parts)
        self.add_class(ROOT)

    def _listen(self) -> None:
        self.map.data[0].on_click(self.status.reporting(self._clicked))
        self.role.observe(lambda _: self.status.reporting(self._show_role)(), "value")
        self.clip.observe(lambda _: self.status.reporting(self._show_clip)(), "value")
        self.quantity.observe(lambda _: self.status.reporting(self._show_heads)(), "value")
        self.seconds.observe(lambda _: self.status.reporting(self._show_heads)(), "value")
        self.add.on_click(lambda _: self.status.reporting(self._toggle)())
        self.answers.metric.on_change(lambda _: self.status.reporting(self._show_head)())

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if points.xs:
            self.status.value = ""
            self.select(int(points.ys[0]), int(points.xs[0]))

    def _toggle(self) -> None:
        circuit = self.circuit
        inside = self.head in circuit
        self.circuit = circuit.removed(self.head) if inside else circuit.added(self.head)

    def _add_heads(self, heads: Sequence[Head]) -> None:
        self.circuit = (*self.circuit.heads, *heads)

    def _show_role(self) -> None:
        self._show_heads()
        self.tokens.become(self._tokens())

    def _show_clip(self) -> None:
        self.player.play_clip(self.clip.value)
        self.seconds.max = self._shorter_clip()
        self.span = None
        self._show_heads()

    def _shorter_clip(self) -> float:
        """Seconds of the clip, of the shorter of both runs."""
        prompts = [self.session.prompt(role) for role in ROLES]
        clips = [prompt.clips_of(0)[self.clip.value] for prompt in prompts]
        return min(prompt.clip_seconds(clip) for prompt, clip in zip(prompts, clips, strict=True))

    def _span_slider(self) -> widgets.FloatRangeSlider:
        end = self._shorter_clip()
        return widgets.FloatRangeSlider(
            value=(0.0, end), min=0.0, max=end, step=0.01, readout_format=".2f", continuous_update=False,
            description="span (s)", style={"description_width": "initial"},
            layout={"width": "300px"},
        )  # fmt: skip

    def _select_cell(self, cell: dict[str, str]) -> None:
        """A cell of a sweep: its head, or the head of its layer that attends most; its time."""
        if Site.of(self.patching.shown[1]).in_encoder:
            raise ValueError("this cell is the encoder's; the map above has the decoder's heads")
        window = WINDOW.fullmatch(cell.get("group", ""))
        if window:
            end = min(float(window[2]), self.seconds.max)
            self.span = (float(window[1]), end) if float(window[1]) < end else None
        if "layer" not in cell:
            return
        layer = int(cell["layer"])
        mass = self.session.mass(self.role.value, self.span, self.clip.value)
        self.select(layer, int(cell.get("head", mass[layer].argmax())))
        if "head" not in cell:
            name = head_name(*self.head)
            self.patching.status.say(f"Layer {layer}: selected {name}, which attends most there.")

    def _reopen(self, state: State) -> None:
        """Show what was saved."""
        self.clip.value = state.clip
        self.role.value, self.saving.notes.value = state.run, state.notes
        self.answers.metric.choose(state.metric)
        self.patching.show(state.sweep)
        self.edges.show(state.edges)
        self.quantity.value, self.span = state.show, state.span
        self.circuit = state.working_set
        self.answers.mode.value = state.mode
        self.select(*state.selection)

    def _show_heads(self) -> None:
        """The map and the heads over time."""
        self.map.become(self._head_map())
        self.time.become(self._over_time())
        self._show_head()

    def _show_head(self) -> None:
        clean, corrupted = (float(self.session.mass(role)[self.head]) for role in ROLES)
        self.chosen.value = (
            f"<b>{head_name(*self.head)}</b> · {MASS}: clean {clean:.1%}, corrupted {corrupted:.1%}"
        )
        hint = '<div class="note">Click a head to see the answer without it.</div>'
        known = self.session.known_effect(self.head, self.answers.metric.key)
        self.looked_at.value = self._about_head() + ("" if known else hint)
        inside = self.head in self.circuit
        self.add.description = "take out of the set" if inside else "add to the set"
        self.add.icon = "minus" if inside else "plus"

    def _about_head(self) -> str:
        """What the answer comes to without the head, where it is known, and its attention."""
        attention = self.session.attention[self.role.value][self.head]
        title = f"attention on the audio, token by token; the highest bar {attention.max():.1%}"
        effect = self.session.known_effect(self.head, self.answers.metric.key)
        if effect is None:
            return strip(attention, title, BLUE)
        return (
            f"<div><b>Without it</b> (its z corrupted): {escape(effect.metric)} "
            f"{effect.whole:.2f} → {effect.without:.2f} · p({escape(effect.answer)}) "
            f"{effect.probability:.1%} → {effect.probability_without:.1%}</div>"
        ) + strip(attention, title, BLUE)

    def _show_effect(self) -> None:
        """Below the map: what the metric and the answer come to without the head."""
        self._show_head()
        self.session.head_effect(self.head, self.answers.metric.key)
        self._show_head()

    def _keep_recovery(self, result: PatchingResult) -> None:
        """A sweep over the model's heads becomes a quantity of the map."""
        site, recovery = str(result.about["site"]), result.recovery()
        if Site.of(site).in_encoder or recovery.shape != self.session.mass("clean").shape:
            return  # other heads than the map's
        name = recovery_name(result)
        self._recovery[name] = recovery
        self.quantity.options = (MASS, DIFFERENCE, *self._recovery)
        self.quantity.value = name

    def _head_map(self) -> go.Figure:
        chosen = self.quantity.value
        masses = {role: self.session.mass(role, self.span, self.clip.value) for role in ROLES}
        clean, corrupted = masses.values()
        circuit = self.answers.circuit.heads
        if chosen == MASS:
            mass, name = masses[self.role.value], f"{MASS}, {self.role.value}"
            top = 1.0
            if self.span is not None:
                name += ", {:.2f}-{:.2f} s".format(*self.span)
                top = float(mass.max()) or 1.0
            figure = head_map(mass, name, outlined=circuit, limits=(0.0, top))
        else:
            values, limits = clean - corrupted, None
            if chosen in self._recovery:  # in the colours of the sweep's own map
                values = self._recovery[chosen]
                top = max(1.0, float(values.abs().nan_to_num().max()))
                limits = (-top, top)
            figure = head_map(values, chosen, outlined=circuit, signed=True, limits=limits)
        layer, head = self.head
        corners = {"x0": head - 0.5, "x1": head + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
        line = {"color": BLUE, "width": 3, "dash": "dot"}
        return figure.add_shape(type="rect", line=line, **corners)

    def _over_time(self) -> go.Figure:
        """The selected head, the working set, and the strongest heads as far as there is room."""
        mass = self.session.mass(self.role.value, self.span, self.clip.value)
        strongest = top_heads(mass, min(6, mass.numel()))
        heads = list(dict.fromkeys([self.head, *self.answers.circuit.heads, *strongest]))
        heads = heads[:MOST_ROWS]
        rows = torch.stack([self.session.attention[self.role.value][head] for head in heads])
        prompt = self.session.prompt(self.role.value)
        return attention_over_time(prompt, rows, heads, clip=self.clip.value, span=self.span)

    def _tokens(self) -> go.Figure:
        role = self.role.value
        figure = token_attention(self.session.pattern(role, self.head), self.session.prompt(role))
        title = {"text": f"{head_name(*self.head)}, {role}", "font": {"size": 14}, "x": 0,
                 "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 8}}  # fmt: skip
        layout = figure.layout
        return figure.update_layout(
            title=title, margin_t=layout.margin.t + TITLE, height=layout.height + TITLE
        )

    def _check(self, head: Head) -> None:
        check_heads([head], *self.session.mass("clean").shape)
