"""Intervals and tests: every number that the package reports with its uncertainty comes from here.

Intervals are of 95 % unless a function says otherwise. All resampling takes a seed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, rankdata
from torch import Tensor

N_RESAMPLES = 2000
BOUNDS = (0.025, 0.975)  # quantiles, of an interval of 95 %
MANY_KINDS = 1000  # of units: beyond, the units themselves are drawn
RESAMPLED_AT_ONCE = 1_000_000  # numbers held at a time
PERMUTATIONS_AT_ONCE = 500  # times items are the numbers held at a time


ITEMS, DRAWS, ITEMS_AND_DRAWS = "items", "draws", "items and draws"


def said_over(over: str) -> str:
    """What stands behind an interval: nothing where it is over items, as most are."""
    return "" if over == ITEMS else f" over {over}"


class Interval(NamedTuple):
    """A number with its 95 % interval; NaN with a reason where it is undefined.

    `over` says what varies: the "items", random "draws" (a range of what other draws gave, which
    says nothing of other items), or "items and draws".
    """

    value: float
    low: float
    high: float
    undefined: str | None = None
    over: str = ITEMS

    @classmethod
    def undefined_because(cls, reason: str) -> "Interval":
        """No number, and why there is none."""
        return cls(float("nan"), float("nan"), float("nan"), reason)

    def __str__(self) -> str:
        if self.undefined is not None:
            return f"undefined ({self.undefined})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]{said_over(self.over)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; NaN is None, and `over` stands there where it is not over items."""
        facts = self._asdict()
        if self.over == ITEMS:
            del facts["over"]
        return {key: None if value != value else value for key, value in facts.items()}


def wilson(correct: Bool[Tensor, " item"]) -> Interval:
    """The share of right answers with Wilson's interval.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927); `scipy.stats.binomtest` computes it.

    Raises:
        ValueError: for no items.
    """
    n, right = len(correct), int(correct.sum())
    bounds = binomtest(right, n).proportion_ci(method="wilson")
    return Interval(right / n, float(bounds.low), float(bounds.high))


def over_draws(correct: Shaped[Tensor, "draw item"]) -> Interval:
    """The mean over items and draws, with the range that 95 % of the random draws fall into."""
    shares = correct.double().mean(1).numpy()
    low, high = np.quantile(shares, BOUNDS)
    return Interval(float(shares.mean()), float(low), float(high), over=DRAWS)


def mean_intervals(
    values: Float[Tensor, "*cell example"],
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[Float[Tensor, "*cell"], Float[Tensor, "*cell"]]:
    """The percentile bootstrap interval of the mean over examples, of every cell: low and high.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13;
    `scipy.stats.bootstrap` computes it.

    Raises:
        ValueError: for fewer than two examples.
    """
    if values.shape[-1] < 2:
        raise ValueError(
            f"an interval over examples needs at least two of them, not {values.shape[-1]}"
        )
    interval = bootstrap(
        (values.numpy(),),
        np.mean,
        axis=-1,
        confidence_level=confidence,
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return torch.as_tensor(interval.low), torch.as_tensor(interval.high)


def paired_difference(
    first: Shaped[Tensor, "*draw item"], second: Shaped[Tensor, "*other item"], seed: int = 0
) -> Interval:
    """The mean of the first minus that of the second on the same items, by percentile bootstrap.

    Items are resampled, and the random draws too where there are any (either may have them), which
    `scipy.stats.bootstrap` does not do. Source: as for `mean_intervals`.
    """
    a = np.atleast_2d(first.numpy()).astype(float)
    b = np.atleast_2d(second.numpy()).astype(float)
    rng, n = np.random.default_rng(seed), a.shape[1]
    drawn: list[float] = []
    if len(a) == len(b) == 1:
        at_once = max(1, RESAMPLED_AT_ONCE // n)
        for start in range(0, N_RESAMPLES, at_once):
            items = rng.integers(n, size=(min(at_once, N_RESAMPLES - start), n))
            drawn += (a[0, items].mean(1) - b[0, items].mean(1)).tolist()
    else:
        for _ in range(N_RESAMPLES):
            items = rng.integers(n, size=(n,))
            drawn.append(_resampled_mean(a, items, rng) - _resampled_mean(b, items, rng))
    low, high = np.quantile(drawn, BOUNDS)
    over = ITEMS if len(a) == len(b) == 1 else ITEMS_AND_DRAWS
    return Interval(float(a.mean() - b.mean()), float(low), float(high), over=over)


def _resampled_mean(
    values: Float[np.ndarray, "draw item"], items: NDArray[np.int64], rng: np.random.Generator
) -> float:
    draws = rng.integers(len(values), size=(len(values),)) if len(values) > 1 else np.zeros(1, int)
    return float(values[np.ix_(draws, items)].mean())


def ratio_interval(
    ratio: Shaped[Tensor, "2 row"],
    units: Int[Tensor, " row"],
    seed: int = 0,
    undefined: str = "its denominator is 0",
) -> Interval:
    """A sum over rows divided by another sum over them, by percentile bootstrap over units of rows.

    The rows of a unit are drawn together. Resamples with a denominator of 0 are left out. Sources:
    as for `mean_intervals`; for units, Davison and Hinkley, "Bootstrap Methods and their
    Application" (1997), section 3.8.

    Args:
        ratio: each row's part of the numerator and of the denominator.
        units: which unit each row belongs to.
        undefined: the reason where the denominator over all rows is 0.
    """
    value = _quotient(ratio.double().sum(1).numpy())
    if np.isnan(value):
        return Interval.undefined_because(undefined)
    low, high = np.nanquantile(_quotient(_resampled_sums(ratio, units, seed)), BOUNDS)
    return Interval(float(value), float(low), float(high))


def ratio_difference(
    first: Shaped[Tensor, "2 row"],
    second: Shaped[Tensor, "2 row"],
    units: Int[Tensor, " row"],
    seed: int = 0,
    undefined: str = "a denominator is 0",
) -> Interval:
    """The first ratio minus the second, over the same rows: each resample has the same units in both.

    Otherwise as `ratio_interval`.
    """
    sums = torch.cat([first, second]).double().sum(1).numpy()
    value = _quotient(sums[:2]) - _quotient(sums[2:])
    if np.isnan(value):
        return Interval.undefined_because(undefined)
    drawn = _resampled_sums(torch.cat([first, second]), units, seed)
    low, high = np.nanquantile(_quotient(drawn[:2]) - _quotient(drawn[2:]), BOUNDS)
    return Interval(float(value), float(low), float(high))


def _quotient(
    sums: Float[np.ndarray, "2 *resample"],
) -> Float[np.ndarray, "*resample"] | np.float64:
    """Numerator by denominator; NaN where that is 0."""
    return sums[0] / np.where(sums[1] == 0, np.nan, sums[1])


def _resampled_sums(
    values: Shaped[Tensor, "quantity row"], units: Int[Tensor, " row"], seed: int
) -> Float[np.ndarray, "quantity resample"]:
    """The sums over rows when as many units as there are are drawn with replacement.

    Units of equal sums are interchangeable, so how often each kind is drawn is multinomial: with
    few kinds, as for right and wrong answers, many rows cost no more than few.
    """
    groups, unit_of_row = units.unique(return_inverse=True)
    n, rng = len(groups), np.random.default_rng(seed)
    nothing = torch.zeros(n, len(values), dtype=torch.float64)
    totals = nothing.index_add(0, unit_of_row, values.double().T).numpy()
    kinds, counts = np.unique(totals, axis=0, return_counts=True)
    if len(kinds) <= MANY_KINDS:
        return (rng.multinomial(n, counts / n, size=N_RESAMPLES) @ kinds).T
    times = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(N_RESAMPLES))
    return np.stack([drawn @ totals for drawn in times]).T


class Comparison(NamedTuple):
    """Two runs over the same items, by McNemar's exact test."""

    gained: int  # right in the second only
    lost: int  # right in the first only
    p_value: float  # two-sided


def mcnemar(first: Bool[Tensor, " item"], second: Bool[Tensor, " item"]) -> Comparison:
    """Whether two runs are right equally often: a binomial test of the items they differ on.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947).
    """
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Comparison(gained, lost, float(p))


def median_ratio(
    first: Sequence[float], second: Sequence[float], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """The median of paired ratios first / second, such as times of alternating rounds.

    The interval is a percentile bootstrap over the pairs.
    """
    ratios = np.asarray(first, dtype=float) / np.asarray(second, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = np.median(rng.choice(ratios, (n_resamples, len(ratios))), axis=1)
    low, high = np.quantile(drawn, BOUNDS)
    return Interval(float(np.median(ratios)), float(low), float(high), over="rounds")


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: each holds for all of them together.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = least
    return corrected


def auroc(
    scores: Float[Tensor, " item"],
    labels: Bool[Tensor, " item"],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Probability that an item labelled true scores higher than one labelled false; ties are half.

    The interval is a percentile bootstrap over items, resampled within each label. With one label
    only it is undefined. Source: Hanley and McNeil, "The meaning and use of the area under a
    receiver operating characteristic (ROC) curve", Radiology 143 (1982).
    """
    positive, negative = scores[labels].double().numpy(), scores[~labels].double().numpy()
    if bool(scores.isnan().any()):
        return Interval.undefined_because("some scores are undefined")
    if not len(positive) or not len(negative):
        return Interval.undefined_because(f"all {len(labels)} items have the same label")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(n_resamples):
        some = (rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
        drawn.append(float(share_in_order(*some)))
    low, high = np.quantile(drawn, BOUNDS)
    value = float(share_in_order(positive, negative))
    return Interval(value, float(low), float(high))


def share_in_order(
    positive: Float[np.ndarray, "*sets positive"], negative: Float[np.ndarray, "*sets negative"]
) -> Float[np.ndarray, "*sets"] | np.float64:
    """The AUROC alone: the Mann-Whitney statistic over the number of pairs."""
    n, m = positive.shape[-1], negative.shape[-1]
    ranks = rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)[..., :n]
    return (ranks.sum(-1) - n * (n + 1) / 2) / (n * m)


def correlation_test(
    x: Float[Tensor, "item column"],
    y: Shaped[Tensor, " item"],
    n_permutations: int = 2000,
    seed: int = 0,
    groups: Int[Tensor, " item"] | None = None,
) -> tuple[Float[Tensor, " column"], Float[Tensor, " column"], Float[Tensor, " column"]]:
    """Pearson's r of every column with y, with one-sided permutation p-values.

    p = (1 + permutations with r at least as high) / (1 + permutations): y is shuffled over the
    items, the same shuffles for all columns. The corrected p compares with the largest r of all
    columns in each permutation, so it holds for all of them together: Westfall and Young's maximum
    statistic, "Resampling-Based Multiple Testing" (1993).

    Args:
        groups: the group of each item, for a stratified test: x and y are centred within each group
            and y is shuffled within each, so what differs between groups counts for nothing.

    Returns:
        r, p and the corrected p; NaN for a column that never changes, and all NaN for such a y.

    Raises:
        ValueError: for no permutations.
    """
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, not {n_permutations}")
    groups = torch.zeros(len(y), dtype=torch.long) if groups is None else groups
    members = [torch.nonzero(groups == group)[:, 0] for group in groups.unique()]
    x = _standardised(x.double(), members)
    y = _standardised(y.double()[:, None], members)[:, 0]
    r = y @ x
    rng = np.random.default_rng(seed)
    at_least = torch.zeros(2, len(r))
    for start in range(0, n_permutations, PERMUTATIONS_AT_ONCE):
        n = min(PERMUTATIONS_AT_ONCE, n_permutations - start)
        shuffles = np.empty((n, len(y)), dtype=np.int64)
        for group in members:
            shuffles[:, group] = rng.permuted(np.tile(group.numpy(), (n, 1)), axis=1)
        shuffled = y[torch.from_numpy(shuffles)] @ x  # [permutation, column]
        largest = shuffled.nan_to_num(-torch.inf).amax(1, keepdim=True)
        close = r - 1e-12  # equal but for rounding counts as equal
        at_least += torch.stack([(shuffled >= close).sum(0), (largest >= close).sum(0)])
    p, corrected = (
        ((1 + at_least) / (1 + n_permutations)).double().masked_fill(r.isnan(), torch.nan)
    )
    return r, p, corrected


def pearson(
    x: Float[Tensor, "item column"], y: Shaped[Tensor, " item"]
) -> Float[Tensor, " column"]:
    """Pearson's r of every column with y; NaN for a column that never changes, or such a y."""
    together = [torch.arange(len(y))]
    return _standardised(y.double()[:, None], together)[:, 0] @ _standardised(x.double(), together)


def _standardised(
    x: Float[Tensor, "item column"], members: Sequence[Int[Tensor, " member"]]
) -> Float[Tensor, "item column"]:
    """Columns of mean 0 in each group and of length 1, NaN where a column is constant in all."""
    centred, constant = torch.empty_like(x), torch.ones(x.shape[1], dtype=torch.bool)
    for group in members:
        centred[group] = x[group] - x[group].mean(0)
        constant &= (x[group] == x[group[:1]]).all(0)
    centred[:, constant] = torch.nan
    return centred / centred.norm(dim=0)
