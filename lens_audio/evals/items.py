"""What a benchmark is: questions about recordings, with choices, and how its answers are judged."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lens_audio.inputs.clips import plain_clip

MAX_QUESTION = 20_000  # letters; the longest of MMAU has 246
SHOWN = 5  # problems named in one message


@dataclass(frozen=True, eq=False)
class AudioQAItem:
    """One question of a benchmark.

    `facts` are what accuracies are reported by (task, difficulty, …); `record` is the benchmark's
    own row, which official prediction files repeat.
    """

    id: str
    question: str  # without its choices
    choices: tuple[str, ...]  # as the benchmark has them; one may come twice
    answer: str | None  # one of the choices; None where the benchmark withholds it
    audio: Any  # a clip that says its rate, or something whose `read()` gives a file's bytes
    facts: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        audio = plain_clip(self.audio) if isinstance(self.audio, Mapping) else self.audio
        object.__setattr__(self, "audio", Path(audio) if isinstance(audio, str) else audio)


@runtime_checkable
class AudioQADataset(Protocol):
    """A benchmark. Another one is one file with a class of these few members."""

    @property
    def name(self) -> str:
        """Such as "MMAU test-mini"."""
        ...

    @property
    def version(self) -> str:
        """Which edition of the questions."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """The facts of items that accuracies are reported by."""
        ...

    @property
    def prompt(self) -> str:
        """The wording that is its default, of `prompts.WORDINGS`."""
        ...

    @property
    def items(self) -> Sequence[AudioQAItem]: ...

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """Whether the benchmark's own scorer counts this prediction as right."""
        ...

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """The item in the benchmark's own format for predictions."""
        ...


def check_items(items: Sequence[AudioQAItem], where: str) -> None:
    """Refuse items that could not be asked, scored or told apart.

    Raises:
        ValueError: naming up to five problems, with the item that has each.
    """
    problems = [f"item {item.id!r}: {problem}" for item in items for problem in _problems(item)]
    twice = [name for name, n in Counter(item.id for item in items).items() if n > 1]
    problems += [f"the id {name!r} is given more than once" for name in twice]
    withheld = [item.id for item in items if item.answer is None]
    if withheld and len(withheld) < len(items):
        problems += [f"item {name!r} has no answer, unlike others" for name in withheld]
    refuse(problems, where)


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise a ValueError that names the first few problems, if there are any."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{where}: {'; '.join(problems[:SHOWN])}{more}")


def _problems(item: AudioQAItem) -> Iterable[str]:
    if not item.question.strip():
        yield "the question is empty"
    for text in (item.id, item.question, *item.choices, *item.facts.values()):
        if len(text) > MAX_QUESTION:
            yield f"a text of {len(text)} letters; at most {MAX_QUESTION} are asked"
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            yield "a text with half a character (a lone surrogate)"
    if len(set(item.choices)) < 2 or not all(choice.strip() for choice in item.choices):
        yield "it needs at least two different choices, none of them empty"
    if item.audio is None:
        yield "it has no recording"
    if item.answer is not None and item.answer not in item.choices:
        yield f"the answer {item.answer[:80]!r} is none of its choices"


def select(items: Sequence[AudioQAItem], **wanted: str | None) -> list[AudioQAItem]:
    """The items with these facts, such as task="sound", in order.

    Raises:
        ValueError: for a fact that no item has, naming those there are.
    """
    chosen = list(items)
    for name, value in wanted.items():
        if value is None:
            continue
        there = sorted({item.facts.get(name, "") for item in items})
        if value not in there:
            known = f"there are {', '.join(there)}" if any(there) else f"they have no {name}"
            raise ValueError(f"no item has {name} {value!r}; {known}")
        chosen = [item for item in chosen if item.facts.get(name) == value]
    if not chosen:
        raise ValueError(f"no item has all of {wanted}")
    return chosen


def is_calibration(item_id: str, share: float, seed: int) -> bool:
    """Which side of the split an id is on: it depends on nothing but these, not on other items."""
    digest = hashlib.sha256(f"{seed}:{item_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def missing_audio(items: Sequence[AudioQAItem]) -> list[AudioQAItem]:
    """Items whose recording is a path with no file."""
    return [item for item in items if isinstance(item.audio, Path) and not item.audio.is_file()]
