"""What a benchmark is: its items, and how answers to them are judged; and which items are asked."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lens_audio.data.items import AudioQAItem


@runtime_checkable
class AudioQADataset(Protocol):
    """A benchmark. Another one is one file with a class of these few members.

    Three more are optional (`metrics.metrics_of`, `unit_of` and `rule_of` look them up):
    `metrics(rows: Sequence[Row]) -> dict[str, Ratio]` for what it reports, which is by default the
    accuracy; `unit(item) -> str` for what is drawn as a whole when intervals are computed, by
    default every item by itself; and `rule: str`, whose scoring rule it follows, in one line.
    """

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
        """The wording that is its default, of `data.wording.WORDINGS`."""
        ...

    @property
    def items(self) -> Sequence[AudioQAItem]:
        """The questions, in the benchmark's order."""
        ...

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """Whether the benchmark's own scorer counts this prediction as right."""
        ...

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """The item in the benchmark's own format for predictions."""
        ...


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


def with_recordings(items: Sequence[AudioQAItem]) -> list[AudioQAItem]:
    """The other items, in order, those of text alone among them.

    Raises:
        ValueError: if all that have a recording miss it.
    """
    missing = {item.id for item in missing_audio(items)}
    found = [item for item in items if item.id not in missing]
    if missing and all(item.audio is None for item in found):
        raise ValueError("none of the recordings was found")
    return found


def refuse_missing(items: Sequence[AudioQAItem], shown: int = 20) -> None:
    """Raise a FileNotFoundError that lists recordings whose file is missing, if there are any."""
    missing = missing_audio(items)
    if missing:
        names = ", ".join(item.audio.name for item in missing[:shown])
        more = f" and {len(missing) - shown} more" if len(missing) > shown else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(items)} recordings are missing: {names}{more}"
        )
