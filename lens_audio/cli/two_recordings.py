"""Two recordings and a question about both, as `patch` and `circuit` ask it, lined up as a pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lens_audio import AudioPrompt, testbed
from lens_audio.analysis import corruptions
from lens_audio.cli.checkpoint import CheckpointFiles, question_of
from lens_audio.cli.checks import check_readable, is_corruption, noise_ratio
from lens_audio.cli.commands.about_two import AboutTwo
from lens_audio.cli.options import split_choices
from lens_audio.cli.recording import Excerpt, read_excerpt
from lens_audio.data import Pair
from lens_audio.data import pair as paired
from lens_audio.testbed.items import with_article
from lens_audio.testbed.scenes import ScenePair

# The bundled demo's item, and another whose sound is among its choices and comes at another time.
PAIR_SEED, CLEAN_ITEM, CORRUPTED_ITEM = 2026, 18, 14


@dataclass(frozen=True)
class NamedRecording:
    """What a run hears: samples or a file, or a change to the clean recording."""

    name: str
    audio: Any = None  # what `model.prompt` takes
    corrupt: Callable[[AudioPrompt], AudioPrompt] | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class TwoRecordings:
    """One question about two recordings."""

    clean: NamedRecording
    corrupted: NamedRecording
    question: str
    choices: list[str] | None
    fit: str | None  # of recordings of unequal length
    answer: str | None  # that are compared; None: what the model answers to either
    instead: str | None

    @classmethod
    def of(cls, request: AboutTwo) -> "TwoRecordings":
        """The bundled pair where no recordings are given.

        Raises:
            OSError, ValueError: for a recording that is none.
        """
        choices = split_choices(request.choices)
        question = question_of(request.question, choices)
        compared = (request.answer, request.instead)
        if request.clean is not None:
            corrupted = _corrupted(request.corrupted or "silence")
            return cls(_file(request.clean), corrupted, question, choices, request.fit, *compared)
        pair = testbed.make_items(CLEAN_ITEM + 1, PAIR_SEED)
        clean, other = (pair[number] for number in (CLEAN_ITEM, CORRUPTED_ITEM))
        if request.question is None and choices is None:
            question, choices = clean.question, clean.choices
        fit = request.fit or "crop"
        return cls(_bundled(clean), _bundled(other), question, choices, fit, *compared)

    @classmethod
    def of_scenes(cls, pair: ScenePair) -> "TwoRecordings":
        """The two recordings of a pair of the testbed, and its question."""
        clean, corrupted = (
            NamedRecording(
                f"synthetic recording of {with_article(item.events[0].category)}",
                item.audio,
                span=(item.events[0].onset, item.events[0].offset),
            )
            for item in pair
        )
        answers = (pair.clean.answer, pair.corrupted.answer)
        return cls(clean, corrupted, pair.clean.question, pair.clean.choices, "pad", *answers)


def _bundled(item: Any) -> NamedRecording:
    name = f"bundled recording of {with_article(item.category)}"
    return NamedRecording(name, (item.waveform, item.sampling_rate), span=(item.onset, item.offset))


def _file(name: str) -> NamedRecording:
    path = check_readable(name, "audio file")
    return NamedRecording(path.name, path)


def _corrupted(name: str) -> NamedRecording:
    if not is_corruption(name):
        return _file(name)
    if name == "silence":
        return NamedRecording("silence of the same length", corrupt=corruptions.silence)
    if name == "shuffle":
        return NamedRecording("the clean recording, shuffled", corrupt=corruptions.shuffle_time)
    snr = noise_ratio(name)
    return NamedRecording(
        f"the clean recording in noise at {snr:g} dB",
        corrupt=lambda prompt: corruptions.add_noise(prompt, snr),
    )


def read_excerpts(
    checkpoint: CheckpointFiles, asked: TwoRecordings, request: AboutTwo
) -> list[Excerpt]:
    """The same part of both recordings; of one that is changed, that part alone."""
    return [
        read_excerpt(each.audio, checkpoint, request.start, request.end, request.max_seconds)
        for each in (asked.clean, asked.corrupted)
        if each.corrupt is None
    ]


def load_pair(
    checkpoint: CheckpointFiles,
    asked: TwoRecordings,
    excerpts: Sequence[Excerpt],
    window: float = 0.25,
) -> tuple[Pair, list[str]]:
    """The clean and the corrupted prompt, and what was done to line them up.

    Raises:
        ValueError: for recordings of unequal length, when nothing says how they line up.
    """
    clean, *others = (
        checkpoint.prompt(asked.question, (each.samples, each.rate)) for each in excerpts
    )
    if asked.corrupted.corrupt is not None:
        return Pair(clean, asked.corrupted.corrupt(clean)), []
    (other,) = others
    n_samples = [len(p.waveforms[0]) for p in (clean, other) if p.waveforms is not None]
    if n_samples[0] == n_samples[1]:
        return Pair(clean, other), []
    seconds = [n / clean.sampling_rate for n in n_samples]
    lengths = f"CLEAN lasts {seconds[0]:.3f} s and CORRUPTED {seconds[1]:.3f} s"
    if asked.fit is None:
        raise ValueError(
            f"{lengths}, so positions do not correspond; --fit crop keeps the first "
            f"{min(seconds):.3f} s of both, --fit pad adds silence to the shorter one, --fit group "
            "patches window by window"
        )
    pair = paired(clean, other, asked.fit, window=window)
    done = {
        "crop": f"both are cut to {min(seconds):.2f} s.",
        "pad": f"the shorter one is followed by silence, up to {max(seconds):.2f} s.",
        "group": "windows, text and last position are patched group by group; in groups of unequal "
        f"length ({', '.join(pair.averaged) or 'none here'}), every position gets the source's mean.",
    }
    return pair, [f"{lengths}; {done[asked.fit]}"]
