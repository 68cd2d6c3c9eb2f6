"""Choosing alpha of contrastive decoding on one split of the items, and measuring it on another."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
import torch

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem
from lens_audio.stats import Interval
from lens_audio.steering.audio_silence.calibrate import best_strength, table_of_strengths
from lens_audio.steering.audio_silence.contrastive import contrastive_answers
from lens_audio.steering.audio_silence.controls import check_test_items, table_of_methods
from lens_audio.steering.audio_silence.item_activations import item_activations
from lens_audio.steering.audio_silence.steering_report import CONTRASTIVE, UNSTEERED
from lens_audio.steering.contrastive_decoding import ContrastiveDecoding, contrastive

ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class ContrastiveCalibration:
    """The chosen contrastive decoding, what it was chosen from, and what it does on other items.

    `table` is of the calibration split: accuracy at each alpha in each condition, its change against
    alpha 0, and which alpha was chosen. `held_out` is of the other items: accuracy without and with
    contrastive decoding in each condition, with Wilson's interval, and the change, paired over items,
    with its bootstrap interval.
    """

    decoding: ContrastiveDecoding
    table: pd.DataFrame  # alpha, condition, n, accuracy, change, chosen
    held_out: pd.DataFrame  # condition, method, n, alpha, accuracy, accuracy_low, …, change, …
    ids: list[str]  # of the calibration items
    held_out_ids: list[str]
    max_cost: float | int

    def interval(self, quantity: str, condition: str) -> Interval:
        """The `accuracy` or `change` of contrastive decoding on the held-out items."""
        table = self.held_out
        row = table[(table["condition"] == condition) & (table["method"] == CONTRASTIVE)].iloc[0]
        bounds = float(row[f"{quantity}_low"]), float(row[f"{quantity}_high"])
        return Interval(float(row[quantity]), *bounds)

    def __repr__(self) -> str:
        tried = self.table["alpha"].nunique()
        return (
            f"ContrastiveCalibration({self.decoding!r}, chosen of {tried} alphas on {len(self.ids)} "
            f"items, measured on {len(self.held_out_ids)})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.held_out.to_html(
            index=False, float_format="%.3f"
        )


@torch.no_grad()
def calibrate_contrastive(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    held_out: Sequence[AudioQAItem],
    *,
    alphas: Sequence[float | int] = ALPHAS,
    max_cost: float | int = 0.02,
    seed: int = 0,
    batch_size: int = 16,
    verbose: bool = True,
) -> ContrastiveCalibration:
    """Choose alpha against silence on some items by the rule that chooses beta, and measure it on others.

    alpha is the one of highest mean accuracy over the conditions, among those where no condition loses
    more than `max_cost` against alpha 0; of equals the smallest. 0 is always among them. Each item is
    read twice, whatever the number of alphas. Answers are told apart by their first token.

    Args:
        items: items (see `analysis.listening.measure`) of the calibration split.
        held_out: items of the test split.
        max_cost: of accuracy, 0.02 is two points.
        seed: of the bootstrap.

    Raises:
        ValueError: for no alphas or one out of its range, no items, held-out items that were calibrated
            on, choices that begin with the same token, or hooks set on the model.
    """
    if not alphas:
        raise ValueError("give at least one alpha to choose from")
    tried = sorted({contrastive(alpha).alpha for alpha in (0.0, *map(float, alphas))})
    check_test_items(held_out, [item.id for item in items])
    answers = contrastive_answers(model)
    found = item_activations(
        model, items, batch_size=batch_size, verbose=verbose, what="calibrating"
    )
    correct = {alpha: answers(found, alpha) for alpha in tried}
    alpha = best_strength(correct, found.conditions, max_cost)
    table = table_of_strengths(correct, correct[0.0], found.conditions, "alpha")
    table["chosen"] = table["alpha"] == alpha
    tested = item_activations(
        model, held_out, batch_size=batch_size, verbose=verbose, what="testing"
    )
    right = {UNSTEERED: answers(tested, 0.0), CONTRASTIVE: answers(tested, alpha)}
    strengths = {UNSTEERED: [0.0], CONTRASTIVE: [alpha]}
    measured = table_of_methods(right, strengths, tested.conditions, seed, ours=CONTRASTIVE)
    leads = [name for name in measured if str(name).startswith("lead")]
    return ContrastiveCalibration(
        decoding=contrastive(alpha),
        table=table,
        held_out=measured.drop(columns=leads).rename(columns={"beta": "alpha"}),
        ids=found.ids,
        held_out_ids=tested.ids,
        max_cost=max_cost,
    )
