"""The page of `lens-audio patch`."""

from dataclasses import dataclass

import plotly.graph_objects as go

from lens_audio.analysis.result import PatchingResult
from lens_audio.inputs import AudioPrompt
from lens_audio.plots.choices import choice_probabilities
from lens_audio.plots.patching import patching_heatmap
from lens_audio.plots.report import audio_html, escape, figure_html, page, table_html
from lens_audio.plots.sound import waveform_traces
from lens_audio.plots.theme import BLUE, GRID, ORANGE

WAVE_HEIGHT, GAP = 78, 14  # pixels

HEADINGS = {
    "window": "Which moment carries the answer?",
    "head": "Which heads carry the answer?",
    "position": "Which positions carry the answer?",
    "group": "Audio, text, or the last position?",
}


@dataclass(frozen=True)
class Run:
    """One recording and what the model answers to it."""

    role: str  # "clean" or "corrupted"
    name: str  # of the recording
    prompt: AudioPrompt  # one row, one clip
    answer: str
    logit_difference: float
    span: tuple[float, float] | None = None  # where the sound asked for is, in seconds


@dataclass(frozen=True)
class Sweep:
    """One sweep with the words to present it."""

    by: str  # "window", "head", "position" or "group"
    site: str
    where: str  # what a cell patches, such as "one head at the last position"
    result: PatchingResult
    labels: list[str] | None  # of the positions
    strongest: list[tuple[str, ...]]  # rows for a table: cell, logit difference, change, recovery


@dataclass(frozen=True)
class Patched:
    """Two recordings, one question, and what patching between them does."""

    clean: Run
    corrupted: Run
    question: str
    answer: str  # the metric is logit(answer) - logit(instead)
    instead: str
    candidates: list[str]
    quantity: str  # what their probabilities are
    clean_probs: list[float]
    corrupted_probs: list[float]
    direction: str
    sweeps: list[Sweep]
    notes: list[str]  # such as that a recording was cut
    model_name: str
    command: str
    versions: str

    @property
    def runs(self) -> tuple[Run, Run]:
        """The run that is patched, and the one that patches come from."""
        pair = (self.corrupted, self.clean)
        return pair if self.direction == "denoise" else pair[::-1]


STRONGEST = ("cell", "logit difference", "change", "recovery")


def patch_page(found: Patched) -> str:
    """The page: both recordings and answers, then each sweep as a map with its strongest cells."""
    base, source = found.runs
    header = (
        "<header><h1>What carries the answer?</h1>"
        f"<p>Activations of the {source.role} run, patched into the {base.role} run · "
        f"{escape(found.model_name)}</p></header>"
    )
    footer = (
        f"<footer>{escape(found.model_name)} · <code>{escape(found.command)}</code> · "
        f"{escape(found.versions)}</footer>"
    )
    sweeps = [_sweep(found, sweep, number) for number, sweep in enumerate(found.sweeps)]
    return page("What carries the answer?", "\n".join([header, _runs(found), *sweeps, footer]))


def _runs(found: Patched) -> str:
    figure = choice_probabilities(
        found.candidates,
        found.clean_probs,
        found.corrupted_probs,
        quantity=found.quantity,
        names=("clean", "corrupted"),
    )
    cards = "".join(f"<div>{_run(run)}</div>" for run in (found.clean, found.corrupted))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    metric = (
        f"The measure is the logit difference, logit({escape(found.answer)}) − "
        f"logit({escape(found.instead)}), at the last position: "
        f"{found.clean.logit_difference:.2f} in the clean run, "
        f"{found.corrupted.logit_difference:.2f} in the corrupted run."
    )
    return (
        f'<section><p class="label">Question</p><p class="question">{escape(found.question)}</p>'
        f'<div class="grid even">{cards}</div><p>{metric}</p>{notes}'
        f"{figure_html(figure, 'answers')}</section>"
    )


def _run(run: Run) -> str:
    player = ""
    if run.prompt.waveforms is not None:
        player = audio_html(run.prompt.waveforms[0], run.prompt.sampling_rate)
    return (
        f'<p class="label">{run.role}</p><p>{escape(run.name)} · '
        f"{run.prompt.clip_seconds(0):.2f} s</p>{player}"
        f'<p class="label">Answer</p><p class="answer">{escape(run.answer) or "(nothing)"}</p>'
    )


def _sweep(found: Patched, sweep: Sweep, number: int) -> str:
    base, source = found.runs
    figure = patching_heatmap(sweep.result, recovery=True, labels=sweep.labels)
    over_time = figure.layout.xaxis.title.text == "time (s)"
    hint = ""
    if over_time and sweep.by == "window":
        _add_waveforms(figure, found)
        hint = " Click to move the playhead."
        if found.clean.span or found.corrupted.span:
            hint += " Dotted lines mark where each recording's sound begins and ends."
    note = (
        f"Each cell replaces <code>{escape(sweep.site)}</code> of {escape(sweep.where)} in the "
        f"{base.role} run by the {source.role} run's. Recovery 0: the logit difference stays "
        f"{base.logit_difference:.2f}, as in the {base.role} run; 1: it becomes "
        f"{source.logit_difference:.2f}, as in the {source.role} run.{hint}"
    )
    drawn = figure_html(figure, f"sweep-{number}", over_time=over_time)
    table = table_html(STRONGEST, sweep.strongest)
    return (
        f'<section><h2>{HEADINGS[sweep.by]}</h2><p class="note">{note}</p>{drawn}'
        f'<p class="label">Strongest cells</p>{table}</section>'
    )


def _add_waveforms(figure: go.Figure, found: Patched) -> None:
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
