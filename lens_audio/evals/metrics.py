"""What a benchmark reports: ratios of sums over its rows, with intervals over its units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.evals.items import AudioQADataset, AudioQAItem
from lens_audio.stats import Interval, ratio_difference, ratio_interval

ACCURACY = "accuracy"
NOTHING = "there is nothing to take the share of"


class Row(NamedTuple):
    """An item with its answer; one that could not be asked has the prediction "" and is wrong."""

    item: AudioQAItem
    prediction: str
    correct: bool


@dataclass(frozen=True, eq=False)
class Ratio:
    """A sum over rows divided by another: an accuracy, a precision, an F1.

    `undefined` is the reason that is given where the denominator is 0.
    """

    numerators: Float[Tensor, " row"]
    denominators: Float[Tensor, " row"]
    undefined: str = NOTHING

    @property
    def value(self) -> float:
        """The ratio; NaN where the denominator is 0."""
        below = float(self.denominators.sum())
        return float(self.numerators.sum()) / below if below else float("nan")

    def interval(self, units: Sequence[str], seed: int = 0) -> Interval:
        """With its 95 % interval, by percentile bootstrap over units: see `stats.ratio_interval`.

        Args:
            units: the unit of each row. Rows of the same unit are drawn together. Of a single unit
                the interval has no width.

        Raises:
            ValueError: for units that are not as many as the rows.
        """
        return ratio_interval(self._stacked, self._numbered(units), seed, self.undefined)

    def change_from(self, other: "Ratio", units: Sequence[str], seed: int = 0) -> Interval:
        """This ratio minus another over the same rows, paired: both have the same units drawn.

        Args:
            units: as for `interval`.

        Raises:
            ValueError: for other rows, or units that are not as many as the rows.
        """
        if len(other.numerators) != len(self.numerators):
            raise ValueError(
                f"a change is measured over the same rows, and these are {len(self.numerators)} and "
                f"{len(other.numerators)}"
            )
        lacking = other if other.denominators.sum() == 0 else self
        return ratio_difference(
            self._stacked, other._stacked, self._numbered(units), seed, lacking.undefined
        )

    @property
    def _stacked(self) -> Float[Tensor, "2 row"]:
        return torch.stack([self.numerators, self.denominators])

    def _numbered(self, units: Sequence[str]) -> Int[Tensor, " row"]:
        if len(units) != len(self.numerators):
            raise ValueError(f"{len(units)} units were given for {len(self.numerators)} rows")
        numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
        return torch.tensor([numbers[unit] for unit in units], dtype=torch.long)


def share(
    of: Sequence[bool], among: Sequence[bool] | None = None, undefined: str = NOTHING
) -> Ratio:
    """The share of rows that are `of` among those that are `among`; by default among all."""
    counted = _numbers([True] * len(of) if among is None else among)
    return Ratio(_numbers(of) * counted, counted, undefined)


def f1(predicted: Sequence[bool], actual: Sequence[bool], undefined: str = NOTHING) -> Ratio:
    """F1 = 2 TP / (2 TP + FP + FN), which is the harmonic mean of precision and recall.

    Source: van Rijsbergen, "Information Retrieval" (1979), chapter 7.
    """
    said, so = _numbers(predicted), _numbers(actual)
    return Ratio(2 * said * so, said + so, undefined)


def _numbers(flags: Sequence[bool]) -> Float[Tensor, " row"]:
    return torch.tensor(flags, dtype=torch.float64)


def metrics_of(dataset: AudioQADataset, rows: Sequence[Row]) -> dict[str, Ratio]:
    """What the benchmark reports of these rows; its accuracy where it says nothing else."""
    own = getattr(dataset, "metrics", None)
    return {ACCURACY: share([row.correct for row in rows])} if own is None else own(rows)


def unit_of(dataset: AudioQADataset, item: AudioQAItem) -> str:
    """What is drawn as a whole when intervals are computed: by default the item itself."""
    own = getattr(dataset, "unit", None)
    return item.id if own is None else own(item)


def rule_of(dataset: AudioQADataset) -> str:
    """Whose scoring rule the benchmark follows; "" where it does not say."""
    return getattr(dataset, "rule", "")
