"""What `lens-audio patch` is asked: two recordings and a question."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_audio import AudioPrompt, testbed
from lens_audio.analysis import corruptions
from lens_audio.cli.checks import check_readable, is_corruption, noise_ratio
from lens_audio.cli.listen import DEFAULT_QUESTION, shown_name
from lens_audio.testbed.items import with_article

# The bundled demo's item, and another whose sound is among its choices and comes at another time.
PAIR_SEED, CLEAN_ITEM, CORRUPTED_ITEM = 2026, 18, 14


@dataclass(frozen=True)
class Request:
    """What the command line asked for; None means the default."""

    clean: str | None
    corrupted: str | None
    question: str | None
    choices: list[str] | None
    by: list[str] | None
    site: str | None
    window: float
    direction: str
    answer: str | None
    instead: str | None
    fit: str | None
    max_seconds: float | None
    model: str | None
    device: str | None
    out: Path
    table: Path
    top: int


@dataclass(frozen=True)
class Recording:
    """What a run hears: samples or a file, or what becomes of the clean recording."""

    name: str
    audio: Any = None  # what `model.prompt` takes
    corrupt: Callable[[AudioPrompt], AudioPrompt] | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Task:
    """One question about two recordings."""

    clean: Recording
    corrupted: Recording
    question: str
    choices: list[str] | None
    fit: str | None  # of recordings of unequal length

    @classmethod
    def of(cls, request: Request) -> "Task":
        """The bundled pair where no recordings are given.

        Raises:
            OSError, ValueError: for a recording that is none.
        """
        if request.clean is None:
            pair = testbed.make_items(CLEAN_ITEM + 1, PAIR_SEED)
            clean, corrupted = (pair[number] for number in (CLEAN_ITEM, CORRUPTED_ITEM))
            asks = request.question is not None or request.choices is not None
            return cls(
                _bundled(clean),
                _bundled(corrupted),
                _asked(request) if asks else clean.question,
                request.choices if asks else clean.choices,
                request.fit or "crop",
            )
        clean_file = _file(request.clean)
        return cls(
            clean_file,
            _corrupted(request.corrupted or "silence"),
            _asked(request),
            request.choices,
            request.fit,
        )


def shown_command(request: Request) -> str:
    """The command that makes this page again, with names of files and folders but no paths."""
    words = ["lens-audio", "patch"]
    for name in (request.clean, request.corrupted):
        words += [] if name is None else [name if is_corruption(name) else Path(name).name]
    options: dict[str, list[Any]] = {
        "question": [request.question],
        "choices": [None if request.choices is None else ",".join(request.choices)],
        "by": request.by or [],
        "site": [request.site],
        "window": [None if request.window == 0.25 else request.window],
        "direction": [None if request.direction == "denoise" else request.direction],
        "answer": [request.answer],
        "instead": [request.instead],
        "fit": [request.fit],
        "max-seconds": [request.max_seconds],
        "model": [None if request.model is None else shown_name(request.model)],
    }
    for option, values in options.items():
        for value in values:
            words += [] if value is None else [f"--{option}", str(value)]
    return shlex.join(words)


def _bundled(item: Any) -> Recording:
    name = f"bundled recording of {with_article(item.category)}"
    return Recording(name, (item.waveform, item.sampling_rate), span=(item.onset, item.offset))


def _file(name: str) -> Recording:
    path = check_readable(name, "audio file")
    return Recording(path.name, path)


def _corrupted(name: str) -> Recording:
    if not is_corruption(name):
        return _file(name)
    if name == "silence":
        return Recording("silence of the same length", corrupt=corruptions.silence)
    if name == "shuffle":
        return Recording("the clean recording, shuffled", corrupt=corruptions.shuffle_time)
    snr = noise_ratio(name)
    return Recording(
        f"the clean recording in noise at {snr:g} dB",
        corrupt=lambda prompt: corruptions.add_noise(prompt, snr),
    )


def _asked(request: Request) -> str:
    """The question, with the choices appended in R1-AQA's wording where it does not name them."""
    question = request.question or DEFAULT_QUESTION
    if request.choices and not all(c.lower() in question.lower() for c in request.choices):
        question += f" Please choose the answer from the following options: {request.choices}."
    return question
