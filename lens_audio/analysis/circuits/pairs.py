"""Pairs to score edges on: batches of them one after another, each with its metric."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lens_audio.analysis.metrics import MetricFunction, logit_diff
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import AudioQAItem, Pair
from lens_audio.data.batches import pair_batches
from lens_audio.inputs import AudioPrompt

PairWithMetric = tuple[Pair, MetricFunction]
# One pair of prompts, or batches of them: each a Pair, or (pair, metric) with a metric of its own.
Pairs = Pair | tuple[AudioPrompt, AudioPrompt] | Iterable[Any]


def pairs_of_items(
    model: HookedAudioTransformer,
    items: Sequence[tuple[AudioQAItem, AudioQAItem]],
    batch_size: int = 16,
) -> Iterator[PairWithMetric]:
    """(clean, corrupted) items that ask one question of two recordings, a batch at a time, each with
    its metric: logit(clean answer) - logit(corrupted answer), of the answers' first tokens.

    Raises:
        ValueError: for a batch size below 1.
    """
    for pair, right, wrong in pair_batches(model, items, batch_size):
        yield pair, logit_diff(right, wrong)


def with_metrics(pairs: Pairs, metric: MetricFunction | None) -> Iterator[PairWithMetric]:
    """Each batch of pairs with its metric: its own, or the one for all.

    Raises:
        ValueError: for no pairs, what is none, or a batch without a metric.
    """
    if isinstance(pairs, tuple) and pairs and isinstance(pairs[0], AudioPrompt):
        pairs = Pair(*pairs)
    n_batches = 0
    for given in [pairs] if isinstance(pairs, Pair) else pairs:
        pair, own = (given, metric) if isinstance(given, Pair) else _taken_apart(given)
        if own is None:
            raise ValueError(
                "no metric was given: give one for all pairs, or (pair, metric) for each batch"
            )
        n_batches += 1
        yield pair, own
    if not n_batches:
        raise ValueError("no pairs were given")


def _taken_apart(given: Any) -> PairWithMetric:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Pair):
        return given
    raise ValueError(
        f"pairs are la.data.pair(clean, corrupted), or (pair, metric); not {type(given).__name__}"
    )
