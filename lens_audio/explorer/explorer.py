"""The explorer itself: the head map, and what it opens."""

from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch

from lens_audio.analysis.attention import top_heads
from lens_audio.analysis.circuit import Circuit, Head
from lens_audio.analysis.listening import check_heads
from lens_audio.analysis.result import PatchingResult
from lens_audio.explorer.circuit_panel import CircuitPanel, MetricChoice
from lens_audio.explorer.parts import FigureView, Status, dropdown, heading
from lens_audio.explorer.patching_panel import PatchingPanel
from lens_audio.explorer.player import OVER_TIME, ROOT, Player
from lens_audio.explorer.session import ROLES, Session
from lens_audio.plots.heads import head_map
from lens_audio.plots.report import escape
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.theme import BLUE, head_name
from lens_audio.plots.tokens import token_attention
from lens_audio.sites import Site

MASS = "audio mass"
DIFFERENCE = f"{MASS}, clean - corrupted"
MOST_ROWS = 12  # heads over time


class Explorer(widgets.VBox):
    """Heads, patching and circuits of one question. Made by `la.explore`.

    From code: `select(layer, head)`, `circuit` (which can be set), `result` (of the last sweep),
    `patching.start()`, `to_code()`.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.head: Head = top_heads(session.mass("clean"), 1)[0]
        self.status = Status()
        self.role = dropdown("run", ROLES, "clean")
        self.clip = dropdown("clip", range(len(session.clean.clips_of(0))), 0)
        self.clip.layout.display = "" if len(self.clip.options) > 1 else "none"
        self.quantity = dropdown("show", (MASS, DIFFERENCE), MASS)
        self.chosen = widgets.HTML()
        self.add = widgets.Button(icon="plus", layout={"width": "auto", "flex": "0 0 auto"})
        self._recovery: dict[str, Any] = {}  # by the name it has above the map
        metric = MetricChoice(session)
        self.answers = CircuitPanel(session, metric, self._show_heads)
        self.patching = PatchingPanel(session, metric, self._keep_recovery)
        self.map = FigureView(self._head_map())
        self.time = FigureView(self._over_time())
        self.time.add_class(OVER_TIME)
        self.tokens = FigureView(self._tokens())
        self.player = Player(session)
        self._compose()
        self._listen()
        self._show_head()

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

    def select(self, layer: int, head: int) -> None:
        """Look at one head: its attention over time and over tokens.

        Raises:
            ValueError: for a head that does not exist.
        """
        self._check((layer, head))
        self.head = (layer, head)
        self._show_heads()
        self.tokens.become(self._tokens())

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
                heading("Heads", "Click a head to look at it. Outlined: the working set."),
                widgets.HBox([self.role, self.quantity], layout={"flex_flow": "wrap"}),
                self.map,
                widgets.HBox([self.chosen, self.add]),
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
        tabs = widgets.Tab([self.tokens, self.patching], titles=("Tokens", "Patching"))
        clean = self.session.clean
        title = (
            f"<h3>Model: {escape(self.session.model.cfg.model_name)}</h3><div class='note'>"
            f"{sum(map(clean.clip_seconds, clean.clips_of(0))):.2f} s of audio, "
            f"{int(clean.audio_mask.sum())} audio tokens of {clean.tokens.shape[1]}</div>"
        )
        self.tabs = tabs
        super().__init__([widgets.HTML(title), self.player, top, over_time, tabs])
        self.add_class(ROOT)

    def _listen(self) -> None:
        self.map.data[0].on_click(self.status.reporting(self._clicked))
        self.role.observe(lambda _: self.status.reporting(self._show_role)(), "value")
        self.clip.observe(lambda _: self.status.reporting(self._show_clip)(), "value")
        self.quantity.observe(lambda _: self.status.reporting(self._show_heads)(), "value")
        self.add.on_click(lambda _: self.status.reporting(self._toggle)())

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if points.xs:
            self.status.value = ""
            self.select(int(points.ys[0]), int(points.xs[0]))

    def _toggle(self) -> None:
        circuit = self.circuit
        inside = self.head in circuit
        self.circuit = circuit.removed(self.head) if inside else circuit.added(self.head)

    def _show_role(self) -> None:
        self._show_heads()
        self.tokens.become(self._tokens())

    def _show_clip(self) -> None:
        self.player.play_clip(self.clip.value)
        self._show_heads()

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
        inside = self.head in self.circuit
        self.add.description = "take out of the set" if inside else "add to the set"
        self.add.icon = "minus" if inside else "plus"

    def _keep_recovery(self, result: PatchingResult) -> None:
        """A sweep over the model's heads becomes a quantity of the map."""
        site, recovery = str(result.about["site"]), result.recovery()
        if Site.of(site).in_encoder or recovery.shape != self.session.mass("clean").shape:
            return  # other heads than the map's
        name = f"recovery of {result.metrics[0]}, {site}, {result.about['direction']}"
        self._recovery[name] = recovery
        self.quantity.options = (MASS, DIFFERENCE, *self._recovery)
        self.quantity.value = name

    def _head_map(self) -> go.Figure:
        chosen = self.quantity.value
        clean, corrupted = (self.session.mass(role) for role in ROLES)
        circuit = self.answers.circuit.heads
        if chosen == MASS:
            mass, name = self.session.mass(self.role.value), f"{MASS}, {self.role.value}"
            figure = head_map(mass, name, outlined=circuit, limits=(0.0, 1.0))
        else:
            values = self._recovery.get(chosen, clean - corrupted)
            figure = head_map(values, chosen, outlined=circuit, signed=True)
        layer, head = self.head
        corners = {"x0": head - 0.5, "x1": head + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
        line = {"color": BLUE, "width": 3, "dash": "dot"}
        return figure.add_shape(type="rect", line=line, **corners)

    def _over_time(self) -> go.Figure:
        """The selected head, the working set, and the strongest heads as far as there is room."""
        mass = self.session.mass(self.role.value)
        strongest = top_heads(mass, min(6, mass.numel()))
        heads = list(dict.fromkeys([self.head, *self.answers.circuit.heads, *strongest]))
        heads = heads[:MOST_ROWS]
        rows = torch.stack([self.session.attention[self.role.value][head] for head in heads])
        prompt = self.session.prompt(self.role.value)
        return attention_over_time(prompt, rows, heads, clip=self.clip.value)

    def _tokens(self) -> go.Figure:
        role = self.role.value
        figure = token_attention(self.session.pattern(role, self.head), self.session.prompt(role))
        return figure.update_layout(title={"text": f"{head_name(*self.head)}, {role}", "x": 0.5,
                                           "font": {"size": 14}}, margin_t=44)  # fmt: skip

    def _check(self, head: Head) -> None:
        check_heads([head], *self.session.mass("clean").shape)
