"""What a steering vector does at each coefficient, beside random vectors of equal norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import answer_log_probs
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, by_condition, check_items
from lens_audio.hooks.positions import Positions
from lens_audio.stats import Interval, mean_intervals, over_draws, wilson
from lens_audio.steering.vectors import SteeringVector

VECTOR, RANDOM = "steering vector", "random vectors"


@dataclass(frozen=True, eq=False)
class CoefficientSweep:
    """How items are answered at each coefficient: with the vector (draw 0), and with random ones."""

    vector: SteeringVector
    coefficients: list[float]  # ascending
    items: list[AudioQAItem]
    log_probs: Float[Tensor, "draw coefficient item"]  # of the right answer, in nats
    chosen: Int[Tensor, "draw coefficient item"]  # which choice is likeliest

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each method, coefficient and condition.

        `accuracy` has Wilson's interval over items, `log_prob` (the mean of the right answer, in nats)
        a bootstrap interval over items, NaN for a single item; those of random vectors are the range of
        95 % of the draws. `over` says which.
        """
        answers = torch.tensor([item.answer_index for item in self.items])
        right = self.chosen == answers
        rows = []
        for number, coefficient in enumerate(self.coefficients):
            for condition, listed in by_condition(self.items).items():
                members = torch.tensor(listed)
                for method, draws in ((VECTOR, slice(0, 1)), (RANDOM, slice(1, None))):
                    correct = right[draws, number][:, members]
                    if not len(correct):
                        continue
                    nats = self.log_probs[draws, number][:, members]
                    by_vector = method == VECTOR
                    share = wilson(correct[0]) if by_vector else over_draws(correct)
                    mean = _mean(nats[0]) if by_vector else over_draws(nats)
                    counted = method, coefficient, condition, len(correct[0])
                    rows.append((*counted, *share[:3], *mean[:3], share.over))
        columns = ["method", "coefficient", "condition", "n", "accuracy", "low", "high"]
        columns += ["log_prob", "log_prob_low", "log_prob_high", "over"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self) -> Any:
        """Accuracy against the coefficient; see `plots.coefficient_curve`."""
        from lens_audio.plots.steering import coefficient_curve

        return coefficient_curve(self.to_dataframe())

    def __repr__(self) -> str:
        tried = ", ".join(f"{c:g}" for c in self.coefficients)
        return (
            f"CoefficientSweep({self.vector!r} at {tried}; {len(self.items)} items, "
            f"{len(self.chosen) - 1} random vectors)"
        )

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(index=False, float_format="%.3f")


@torch.no_grad()
def coefficient_sweep(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    vector: SteeringVector,
    coefficients: Sequence[float | int],
    positions: Positions = "last",
    *,
    n_draws: int = 5,
    seed: int = 0,
    batch_size: int = 16,
    verbose: bool = True,
) -> CoefficientSweep:
    """Answer items by their likeliest choice, steered by each coefficient times the vector.

    Beside it stand random vectors of the same norm in each layer, whose directions are drawn uniformly:
    what they do, any push of that size does.

    Args:
        items: questions with their choices and answer.
        coefficients: 0 is the model as it is.
        positions: where the vector is added; see `hooks.steer`.
        n_draws: of random vectors; 0 for none.
        seed: of their directions.

    Raises:
        ValueError: for no items or coefficients, one that is not finite, a negative n_draws, a vector
            that does not fit the model, or hooks set on it.
    """
    model.check_no_hooks()
    check_items(items, needs=("answer",))
    vector.check(model)
    if not len(coefficients) or not all(torch.tensor(float(c)).isfinite() for c in coefficients):
        raise ValueError(f"give at least one finite coefficient, not {list(coefficients)}")
    if n_draws < 0:
        raise ValueError(f"n_draws must be at least 0, not {n_draws}")
    tried = sorted(set(map(float, coefficients)))
    vectors = [vector, *(vector.random_control(model, seed + n) for n in range(n_draws))]
    log_probs = torch.zeros(len(vectors), len(tried), len(items))
    chosen = torch.zeros(log_probs.shape, dtype=torch.long)
    start = 0
    for batch, prompt in batches(model, items, batch_size, verbose, "sweeping"):
        here = slice(start, start := start + len(batch))
        right = torch.tensor([item.answer_index for item in batch])
        for number, coefficient in enumerate(tried):
            # At 0 every vector is the model as it is.
            for draw, one in enumerate(vectors if coefficient else vectors[:1]):
                with one.attach(model, coefficient, positions):
                    found = answer_log_probs(model, batch, prompt).float().cpu()
                draws = draw if coefficient else slice(None)
                chosen[draws, number, here] = found.argmax(-1)
                log_probs[draws, number, here] = found.gather(1, right[:, None])[:, 0]
    return CoefficientSweep(vector, tried, list(items), log_probs, chosen)


def _mean(values: Float[Tensor, " item"]) -> Interval:
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    low, high = mean_intervals(values)
    return Interval(mean, float(low), float(high))
