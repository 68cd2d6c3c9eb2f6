"""What a verification found."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from lens_audio.verification.comparing import Difference, RowTokens

AGREES, DIFFERS, NO_REFERENCE = "agrees", "differs", "no reference"
GREEDY = "greedy tokens"
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One prompt: what was compared, or without a reference what was checked."""

    name: str
    shape: tuple[int, int]  # of its tokens
    seconds: list[float]  # of each clip
    differences: list[Difference]  # none without a reference
    rows: list[RowTokens]
    texts: list[str] | None  # the greedy tokens of each row as text
    not_finite: list[str]  # places with NaN or infinite values of ours

    @property
    def first(self) -> str | None:
        """The first place that is no number or differs, or the greedy tokens; None if all is well."""
        bad = [*self.not_finite, *(found.place for found in self.differences if not found.agrees)]
        if not all(row.agrees for row in self.rows):
            bad.append(GREEDY)
        return bad[0] if bad else None

    def to_json(self) -> Json:
        """As in the file."""
        found = asdict(self)
        for row, json in zip(self.rows, found["rows"], strict=True):
            json["agrees"] = row.agrees
        for difference, json in zip(self.differences, found["differences"], strict=True):
            json["agrees"] = difference.agrees
        return found


@dataclass(frozen=True)
class Verification:
    """The result; `to_json` is what to attach to an issue."""

    facts: Json  # which model, where, with what
    cases: list[Case]
    has_reference: bool = True

    @property
    def first(self) -> tuple[str, str] | None:
        """The first prompt and the first place in it that differs; None if nothing does."""
        return next(((case.name, case.first) for case in self.cases if case.first), None)

    @property
    def verdict(self) -> str:
        """`AGREES`, `DIFFERS` or, if nothing was there to differ from, `NO_REFERENCE`."""
        if self.first:
            return DIFFERS
        return AGREES if self.has_reference else NO_REFERENCE

    def to_json(self) -> Json:
        """All of it; what is no finite number is text, as JSON has no other way."""
        first = self.first and {"prompt": self.first[0], "place": self.first[1]}
        cases = [case.to_json() for case in self.cases]
        return _plain(
            {"verdict": self.verdict, "first_difference": first, **self.facts, "prompts": cases}
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
