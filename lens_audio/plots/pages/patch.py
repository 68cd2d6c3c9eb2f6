"""The page of `lens-audio patch`."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import torch

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.plots.pages.answers import AnsweredRecording, TwoAnswers, answers_section
from lens_audio.plots.patching import patching_heatmap
from lens_audio.plots.report import (
    code,
    escape,
    figure_html,
    label,
    note,
    report,
    section,
    table_html,
)
from lens_audio.plots.sound import waveform_traces
from lens_audio.plots.theme import BLUE, GRID, ORANGE
from lens_audio.sites import head_name

WAVE_HEIGHT, GAP = 78, 14  # pixels

HEADINGS = {
    "window": "Which moment carries the answer?",
    "head": "Which heads carry the answer?",
    "position": "Which positions carry the answer?",
    "group": "Audio, text, or the last position?",
}


@dataclass(frozen=True)
class Sweep:
    """One sweep with the words to present it."""

    by: str  # "window", "head", "position" or "group"
    site: str
    where: str  # what a cell patches, such as "one head at the last position"
    result: PatchingResult
    labels: list[str] | None  # of the positions
    top: int  # how many of the strongest cells to show

    @property
    def direction(self) -> str:
        """Which run is patched: "denoise" or "noise"."""
        return str(self.result.about["direction"])

    @property
    def positions(self) -> list[str]:
        """The entries of the axis of positions or groups; none without one."""
        return self.result.axes.get("position", self.result.axes.get("group", []))

    @property
    def strongest(self) -> list[tuple[str, ...]]:
        """The cells that change the metric most, as text under `STRONGEST`."""
        values, recovery = self.result.mean(), self.result.recovery()
        change = values - self.result.base[0].mean()
        sizes = change.abs().nan_to_num(-1.0).flatten()
        rows: list[tuple[str, ...]] = []
        for flat in sizes.argsort(descending=True, stable=True)[: self.top]:
            place = tuple(int(i) for i in torch.unravel_index(flat, values.shape))
            value, change_, recovered = (float(x[place]) for x in (values, change, recovery))
            share = "undefined" if recovered != recovered else f"{recovered:.1%}"
            rows.append((self._cell(place), f"{value:.2f}", f"{change_:+.2f}", share))
        return rows

    def _cell(self, place: tuple[int, ...]) -> str:
        axes = list(self.result.axes.items())[1:-1]
        cell = {name: entries[i] for (name, entries), i in zip(axes, place, strict=True)}
        if self.result.about["site"] == "audio_embed":  # before any layer
            del cell["layer"]
        if "head" in cell:
            return head_name(int(cell["layer"]), int(cell["head"]))
        position = cell.get("position", cell.get("group", ""))
        names = dict(zip(self.positions, self.labels or [], strict=False))
        if position in names:
            position = f"position {position} ({names[position]})"
        return f"layer {cell['layer']}, {position}" if "layer" in cell else position


STRONGEST = ("cell", "logit difference", "change", "recovery")


def base_and_source(found: TwoAnswers, sweep: Sweep) -> tuple[AnsweredRecording, AnsweredRecording]:
    """The run that is patched, and the one that patches come from."""
    pair = (found.corrupted, found.clean)
    return pair if sweep.direction == "denoise" else pair[::-1]


def patch_page(found: TwoAnswers, sweeps: Sequence[Sweep]) -> str:
    """The page: both recordings and answers, then each sweep as a map with its strongest cells.

    Args:
        sweeps: in the same direction.
    """
    base, source = base_and_source(found, sweeps[0])
    patched = f"Activations of the {source.role} run, patched into the {base.role} run"
    results = [sweep.result for sweep in sweeps]
    maps = [_sweep(found, sweep, number, results) for number, sweep in enumerate(sweeps)]
    return report(
        "What carries the answer?",
        (patched, found.model_name),
        (answers_section(found), *maps),
        (escape(found.model_name), code(found.command), escape(found.versions)),
    )


def _sweep(found: TwoAnswers, sweep: Sweep, number: int, beside: Sequence[PatchingResult]) -> str:
    base, source = base_and_source(found, sweep)
    figure = patching_heatmap(sweep.result, recovery=True, labels=sweep.labels, beside=beside)
    over_time = figure.layout.xaxis.title.text == "time (s)"
    hint = ""
    if over_time and sweep.by == "window":
        _add_waveforms(figure, found)
        hint = " Click to move the playhead."
        if found.clean.span or found.corrupted.span:
            hint += " Dotted lines mark where each recording's sound begins and ends."
    said = (
        f"Each cell replaces {code(sweep.site)} of {escape(sweep.where)} in the "
        f"{base.role} run by the {source.role} run's. Recovery 0: the logit difference stays "
        f"{base.logit_difference:.2f}, as in the {base.role} run; 1: it becomes "
        f"{source.logit_difference:.2f}, as in the {source.role} run.{hint}"
    )
    return section(
        HEADINGS[sweep.by],
        note(said),
        figure_html(figure, f"sweep-{number}", over_time=over_time),
        label("Strongest cells"),
        table_html(STRONGEST, sweep.strongest),
    )


def _add_waveforms(figure: go.Figure, found: TwoAnswers) -> None:
    """Both recordings above the figure, over its time axis."""
    runs = [(found.corrupted, "y2", ORANGE), (found.clean, "y3", BLUE)]  # as in their answers
    waves = [run.prompt.waveforms[0] for run, *_ in runs if run.prompt.waveforms is not None]
    margin = figure.layout.margin
    own = figure.layout.height - margin.t - margin.b
    total = own + 2 * (WAVE_HEIGHT + GAP)
    figure.layout.yaxis.domain = [0, own / total]
    for trace in figure.data[:1]:
        if trace.type == "heatmap":
            trace.colorbar.update(y=own / total / 2, len=own, lenmode="pixels")
    for annotation in figure.layout.annotations:
        if annotation.yref == "paper":
            annotation.y = own / total
    bottom = own + GAP
    for (run, axis, colour), waveform in zip(runs, waves, strict=True):
        figure.add_traces(waveform_traces(waveform, run.prompt.sampling_rate, axis, colour))
        largest = float(abs(waveform).max()) or 1.0
        figure.layout["yaxis" + axis[1:]] = {
            "domain": [bottom / total, (bottom + WAVE_HEIGHT) / total],
            "title": {"text": run.role, "standoff": 8},
            "range": [-1.05 * largest, 1.05 * largest],
            "showticklabels": False,
            "gridcolor": GRID,
            "zeroline": False,
            "anchor": "x",
        }
        for edge in run.span or ():
            figure.add_shape(
                type="line", x0=edge, x1=edge, y0=0, y1=1, yref=f"{axis} domain",
                line={"color": "#ff3d7f", "width": 1.5, "dash": "dot"},
            )  # fmt: skip
        bottom += WAVE_HEIGHT + GAP
    figure.update_xaxes(anchor="y")
    figure.update_layout(height=total + margin.t + margin.b, showlegend=False)
