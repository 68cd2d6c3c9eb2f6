"""The page of `lens-audio listen`."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis import audio_mass, peak_time
from lens_audio.inputs import AudioPrompt
from lens_audio.plots.choices import choice_probabilities, shown_mass
from lens_audio.plots.heads import head_map
from lens_audio.plots.report import (
    code,
    columns,
    escape,
    figure_html,
    label,
    note,
    player,
    report,
    section,
    table_html,
)
from lens_audio.plots.sound import attention_over_time
from lens_audio.sites import head_name

TITLE = "Is the model listening?"
HEAD_COLUMNS = ("head", "audio mass", "looks most at")


@dataclass(frozen=True)
class ListenResult:
    """One question about one recording, answered, and where the model listened meanwhile."""

    prompt: AudioPrompt  # one row, one clip
    audio_name: str
    question: str
    answer: str
    candidates: list[str]  # the choices, or without choices the likeliest next tokens
    are_choices: bool
    with_sound: list[float]  # probability of each candidate, 0 to 1
    without_sound: list[float]  # the same over silence
    attention: Float[Tensor, "layer head audio_token"]
    heads: list[tuple[int, int]]  # the strongest, strongest first
    model_name: str
    command: str
    versions: str
    key: str | None = None  # the right answer, where it is known
    span: tuple[float, float] | None = None  # where in the clip the asked-for sound is, in seconds
    heard: str = ""  # which seconds of the recording: "1.00 to 3.00 of 8.32 s"
    start: float = 0.0  # in seconds of the recording
    mass: tuple[float, float] | None = None  # all choices together, with the sound and silenced
    cautions: Sequence[str] = ()  # before any bar

    @property
    def is_right(self) -> bool | None:
        """Whether the answer is the key; None without a key."""
        if self.key is None:
            return None
        return self.answer.strip().rstrip(".").lower() == self.key.strip().lower()

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.prompt.clip_seconds(0)

    @property
    def quantity(self) -> str:
        """What the candidates' probabilities are."""
        return "probability among the choices" if self.are_choices else "next-token probability"

    @property
    def head_rows(self) -> list[tuple[str, str, str]]:
        """Name, audio mass and time of highest attention of each of the strongest heads."""
        mass = audio_mass(self.attention)
        peak = peak_time(self.attention, self.prompt.audio_times(0))
        return [
            (head_name(*head), f"{float(mass[head]):.1%}", f"{float(peak[head]):.2f} s")
            for head in self.heads
        ]


def listen_page(found: ListenResult) -> str:
    """The page: the answer, the recording with attention over time, the map of all heads."""
    return report(
        TITLE,
        (found.audio_name, found.heard, found.model_name),
        (_answer(found), _over_time(found), _all_heads(found)),
        (escape(found.model_name), code(found.command), escape(found.versions)),
        tab=f"{TITLE} {found.audio_name}",
    )


def _answer(found: ListenResult) -> str:
    figure = choice_probabilities(
        found.candidates,
        found.with_sound,
        found.without_sound,
        answer=found.key,
        quantity=found.quantity,
    )
    verdict = ""
    if found.key is not None:
        kind = "good" if found.is_right else "bad"
        says = "agrees" if found.is_right else "does not agree"
        verdict = f'<p class="{kind}">It {says} with the answer key: {escape(found.key)}.</p>'
    said = (
        f'{label("Question")}<p class="question">{escape(found.question)}</p>'
        f'{label("Answer")}<p class="answer">{escape(found.answer) or "(nothing)"}</p>'
        f"{verdict}<p>{_what_the_sound_does(found)}</p>"
    )
    warned = [f'<p class="bad">{escape(caution)}</p>' for caution in found.cautions]
    return section(None, *warned, columns(said, figure_html(figure, "answers")))


def _what_the_sound_does(found: ListenResult) -> str:
    together = ""
    if found.mass is not None:
        heard, silent = map(shown_mass, found.mass)
        together = (
            f" All choices together have a probability of {heard} with the sound and {silent} with "
            "silence; the bars share that out."
        )
    given = "With the sound the model gives"
    if found.are_choices:
        given = "Among the choices, with the sound, the model gives"
    best = max(range(len(found.candidates)), key=found.with_sound.__getitem__)
    return (
        f"{given} “{escape(found.candidates[best])}” "
        f"{found.with_sound[best]:.1%}; with silence of the same length "
        f"{found.without_sound[best]:.1%}.{together}"
    )


def _over_time(found: ListenResult) -> str:
    rows = found.attention[tuple(zip(*found.heads, strict=True))]
    figure = attention_over_time(found.prompt, rows, found.heads, span=found.span)
    marks = " Dotted lines mark where the sound asked for begins and ends." if found.span else ""
    counted = f" Times count from {found.start:.2f} s of the recording." if found.start else ""
    return section(
        "When the strongest heads listen",
        note(
            "Waveform, log-mel spectrogram as the model reads it, and the attention that each head "
            "pays to every audio token from the last position of the prompt, where the answer "
            f"begins. Click anywhere to move the playhead.{marks}{counted}"
        ),
        player(found.prompt),
        figure_html(figure, "time", over_time=True),
    )


def _all_heads(found: ListenResult) -> str:
    figure = head_map(audio_mass(found.attention), outlined=found.heads, limits=(0.0, 1.0))
    return section(
        "Which heads read the audio",
        note(
            "Each cell is one attention head. Its audio mass is the share of its attention, from "
            "the last position of the prompt, that falls on the audio. The strongest are outlined."
        ),
        columns(figure_html(figure, "heads"), table_html(HEAD_COLUMNS, found.head_rows)),
    )
