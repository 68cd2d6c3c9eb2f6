"""Items: questions about recordings, with their choices and the right one."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lens_audio.inputs.clips import plain_clip

MAX_QUESTION = 20_000  # letters; the longest of MMAU has 246
SHOWN = 5  # problems named in one message


@dataclass(frozen=True, eq=False)
class AudioQAItem:
    """One question about a recording, its possible answers and the right one.

    Analyses ask the `question` as it is, so that it names its choices; a benchmark's wording adds
    them (`evals.wording`). `facts` are what results are reported by: a task, a difficulty, or the
    "condition" that analyses group by. `record` is the benchmark's own row, which official
    prediction files repeat.
    """

    id: str
    question: str
    choices: Sequence[str]  # as a benchmark has them; one may come twice
    answer: str | None  # one of the choices; None where a benchmark withholds it
    # What `model.prompt` takes, or something whose `read()` gives a file's bytes; None is text alone.
    audio: Any = None
    facts: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        audio = plain_clip(self.audio) if isinstance(self.audio, Mapping) else self.audio
        object.__setattr__(self, "audio", Path(audio) if isinstance(audio, str) else audio)

    def __repr__(self) -> str:
        question = self.question if len(self.question) <= 60 else self.question[:59] + "…"
        return f"{type(self).__name__}({self.id!r}, {question!r}, answer={self.answer!r})"

    @property
    def condition(self) -> str:
        """The group of items that it is reported with, such as "conflict"; "all" without groups."""
        return self.facts.get("condition", "all")

    @property
    def answer_index(self) -> int:
        """Which of the choices is right.

        Raises:
            ValueError: for an answer that is withheld, or none of the choices.
        """
        return list(self.choices).index(self.answer or "")


Item = TypeVar("Item", bound=AudioQAItem)


def check_items(
    items: Sequence[Any],
    where: str = "items",
    *,
    least: int = 1,
    needs: Collection[str] = (),
) -> None:
    """Refuse items that could not be asked, scored or told apart.

    Args:
        where: what messages call them.
        least: how many there must be.
        needs: "answer" or "audio", which each of them must then have. Answers are otherwise
            withheld of all items or of none.

    Raises:
        TypeError: for something that is no item.
        ValueError: for too few items, or naming up to five problems, with the item that has each.
    """
    for item in items:
        if not isinstance(item, AudioQAItem):
            raise TypeError(f"expected items (lens_audio.data.AudioQAItem), not {_kind(item)}")
    if len(items) < least:
        raise ValueError(f"{len(items)} items are too few; give at least {least}")
    problems = [f"item {item.id!r}: {said}" for item in items for said in _problems(item, needs)]
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


def _problems(item: AudioQAItem, needs: Collection[str]) -> Iterable[str]:
    if not item.question.strip():
        yield "the question is empty"
    for text in (item.id, item.question, *item.choices, *item.facts.values()):
        if len(text) > MAX_QUESTION:
            yield f"a text of {len(text)} letters; at most {MAX_QUESTION} are asked"
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            yield "a text with half a character (a lone surrogate)"
    if len(set(item.choices)) < 2 or not all(choice.strip() for choice in item.choices):
        yield "it needs at least two different choices, none of them empty"
    if "audio" in needs and item.audio is None:
        yield "it has no recording"
    if "answer" in needs and item.answer is None:
        yield "its answer is withheld"
    if item.answer is not None and item.answer not in item.choices:
        yield f"the answer {item.answer[:80]!r} is none of its choices"


def _kind(thing: Any) -> str:
    return type(thing).__name__


def by_condition(items: Sequence[AudioQAItem]) -> dict[str, list[bool]]:
    """Which items each condition has, in order of first appearance."""
    names = dict.fromkeys(item.condition for item in items)
    return {name: [item.condition == name for item in items] for name in names}


def split_items(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """A seeded split, calibration first: that share of each condition, in the items' order.

    Raises:
        ValueError: for a share outside (0, 1), or a condition with a single item.
    """
    if not 0 < share < 1:
        raise ValueError(f"the split's share must lie between 0 and 1, not {share}")
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for condition, members in by_condition(items).items():
        ids = [item.id for item, is_member in zip(items, members, strict=True) if is_member]
        if len(ids) < 2:
            raise ValueError(f"condition {condition!r} has one item, which cannot be split")
        n = min(max(1, round(share * len(ids))), len(ids) - 1)
        chosen.update(np.asarray(ids)[rng.permutation(len(ids))[:n]].tolist())
    first = [item for item in items if item.id in chosen]
    return first, [item for item in items if item.id not in chosen]
