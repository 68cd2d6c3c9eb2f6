"""Side-by-side timing: the contestants take turns, so that a noisy machine is noisy for all."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import bootstrap


def side_by_side(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of our time over theirs in the same round."""
    return statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))


def ratio_interval(
    times: dict[str, list[float]], ours: str, theirs: str
) -> tuple[float, float, float]:
    """`ratio`, and its 95 % interval: the percentile bootstrap over the rounds.

    Of one round it is that round's ratio, three times.
    """
    ratios = np.divide(times[ours], times[theirs])
    if len(ratios) < 2:
        return (float(ratios[0]),) * 3
    interval = bootstrap(
        (ratios,), np.median, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    return float(np.median(ratios)), float(interval.low), float(interval.high)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
