"""Intervals of accuracies and of paired differences."""

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from lens_audio.analysis.listening import Interval

N_RESAMPLES = 2000


def wilson(correct: Bool[Tensor, " item"]) -> Interval:
    """Share of right answers with its 95 % Wilson interval."""
    n, right = len(correct), int(correct.sum())
    bounds = binomtest(right, n).proportion_ci(method="wilson")
    return Interval(right / n, float(bounds.low), float(bounds.high))


def over_draws(correct: Shaped[Tensor, "draw item"]) -> Interval:
    """Mean over items and draws, with the range that 95 % of the random draws fall into."""
    shares = correct.double().mean(1).numpy()
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(float(shares.mean()), float(low), float(high))


def paired_difference(
    first: Shaped[Tensor, "*draw item"], second: Shaped[Tensor, "*other item"], seed: int = 0
) -> Interval:
    """Mean of the first minus the second on the same items: 95 % percentile bootstrap.

    Items are resampled, and the random draws too where there are any (either may have them).
    """
    a = np.atleast_2d(first.numpy()).astype(float)
    b = np.atleast_2d(second.numpy()).astype(float)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(N_RESAMPLES):
        items = rng.integers(a.shape[1], size=(a.shape[1],))
        drawn.append(_resampled(a, items, rng) - _resampled(b, items, rng))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(a.mean() - b.mean()), float(low), float(high))


def _resampled(
    values: Float[np.ndarray, "draw item"], items: NDArray[np.int64], rng: np.random.Generator
) -> float:
    draws = rng.integers(len(values), size=(len(values),)) if len(values) > 1 else np.zeros(1, int)
    return float(values[np.ix_(draws, items)].mean())
