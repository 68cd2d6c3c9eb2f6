"""What pages about two recordings begin with: the question, both recordings, both answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from lens_audio.inputs import AudioPrompt
from lens_audio.plots.choices import choice_probabilities
from lens_audio.plots.report import (
    columns,
    escape,
    figure_html,
    label,
    note,
    player,
    section,
)


@dataclass(frozen=True)
class AnsweredRecording:
    """One recording and what the model answers to it."""

    role: str  # "clean" or "corrupted"
    name: str  # of the recording
    prompt: AudioPrompt  # one row, one clip
    answer: str
    token: int  # its first
    probs: list[float]  # of the candidates
    mass: float | None  # the probability of all choices together; None without choices
    span: tuple[float, float] | None = None  # where the sound asked for is, in seconds
    heard: str = ""  # which seconds of the recording: "1.00 to 3.00 of 8.32 s"
    logit_difference: float = float("nan")  # until it is measured


@dataclass(frozen=True, kw_only=True)
class TwoAnswers:
    """One question about two recordings, and what the model answers."""

    clean: AnsweredRecording
    corrupted: AnsweredRecording
    question: str
    answer: str  # the metric is logit(answer) - logit(instead)
    instead: str
    candidates: list[str]
    quantity: str  # what their probabilities are
    notes: list[str]  # such as that a recording was cut
    model_name: str
    command: str
    versions: str
    cautions: Sequence[str] = ()  # before any bar


def answers_section(found: TwoAnswers) -> str:
    """The question, both recordings with their answers, and what the measure is."""
    figure = choice_probabilities(
        found.candidates,
        found.clean.probs,
        found.corrupted.probs,
        quantity=found.quantity,
        names=("clean", "corrupted"),
    )
    metric = (
        f"The measure is the logit difference, logit({escape(found.answer)}) − "
        f"logit({escape(found.instead)}), at the last position: "
        f"{found.clean.logit_difference:.2f} in the clean run, "
        f"{found.corrupted.logit_difference:.2f} in the corrupted run."
    )
    return section(
        None,
        *(f'<p class="bad">{escape(caution)}</p>' for caution in found.cautions),
        f'{label("Question")}<p class="question">{escape(found.question)}</p>',
        columns(_run(found.clean), _run(found.corrupted), even=True),
        f"<p>{metric}</p>",
        *(note(escape(said)) for said in found.notes),
        figure_html(figure, "answers"),
    )


def _run(run: AnsweredRecording) -> str:
    return (
        f"{label(run.role)}<p>{escape(run.name)} · {escape(run.heard)}</p>"
        f"{player(run.prompt)}"
        f'{label("Answer")}<p class="answer">{escape(run.answer) or "(nothing)"}</p>'
    )
