"""Choosing k and beta, on one split of the items.

A benchmark and `calibrate` choose by the same rule, `choose_setting`, from what is answered right
under each of the same `candidates`. They differ in how answers come about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.listening import (
    Correlation,
    Head,
    best_heads,
    correlate,
    listening_score,
)
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem
from lens_audio.fingerprint import versions
from lens_audio.stats import auroc
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.steering.audio_silence.item_activations import ItemActivations, item_activations
from lens_audio.steering.storage import model_facts

KS = (2, 4, 8, 12)
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The chosen steering, and what it was chosen from. All of it is of the calibration split."""

    steering: AudioSilenceSteering
    fixed: AudioSilenceSteering  # the control: the mean s of this split instead of the item's own
    correlation: Correlation
    specialists_from: str | None  # the condition whose items the correlation is of; None is all
    heads_of_all: list[Head]  # as many heads, found on the items of all conditions
    table: pd.DataFrame  # k, auroc, beta, condition, n, accuracy, change, chosen
    ids: list[str]

    def __repr__(self) -> str:
        tried = f"{self.table['k'].nunique()} ks and {self.table['beta'].nunique()} betas"
        return f"Calibration({self.steering!r}, chosen of {tried} on {len(self.ids)} items)"

    def _repr_html_(self) -> str:
        chosen = self.table[self.table["chosen"]].drop(columns="chosen")
        return f"<p>{escape(repr(self))}</p>" + chosen.to_html(index=False, float_format="%.3f")


@torch.no_grad()
def calibrate(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    *,
    ks: Sequence[int] = KS,
    betas: Sequence[float | int] = BETAS,
    adaptive: str = "constant",
    specialists_from: str | None = None,
    max_cost: float | int = 0.02,
    seed: int = 0,
    n_permutations: int = 2000,
    batch_size: int = 16,
    verbose: bool = True,
    data: str | None = None,
) -> Calibration:
    """Choose the number of specialists and the strength.

    k is the one whose listening score best separates right from wrong answers, by AUROC over the
    items that the specialists are found on; of equals the smallest. Steering hardly tells ks apart,
    as only the layers matter to s. beta is then the one of highest mean accuracy over the
    conditions, among those where no condition loses more than `max_cost` against beta 0; of equals
    the smallest. 0 is always among them, so that doing nothing can win.

    Args:
        items: items (see `analysis.listening.measure`) of the calibration split.
        specialists_from: find the specialists on the items of this condition; by default on all,
            as in the paper. Where conditions differ in accuracy and in length of text, correctness
            over all of them says first of all which condition an item is of, and so do the heads
            that correlate with it; within one condition it says whether the audio was heard.
        max_cost: of accuracy, 0.02 is two points.
        data: what the items are, for the provenance.

    Raises:
        ValueError: for too few items, no ks or betas, more heads than there are, or a correlation
            that is undefined as all answers are right, or all wrong.
    """
    if not ks or not betas:
        raise ValueError("give at least one k and one beta to choose from")
    found = item_activations(
        model, items, batch_size=batch_size, verbose=verbose, what="calibrating"
    )
    mass, plain = found.mass.cpu(), found.correct(model)
    members = _members(found, specialists_from)
    correlation = correlate(mass[members], plain[members], n_permutations, seed)
    facts = {"what": data, "n_items": len(plain), "specialists_from": specialists_from}
    tried = candidates(model, correlation, ks, betas, adaptive, facts | {"seed": seed})
    correct = {setting: found.correct(model, steering) for setting, steering in tried.items()}
    separations = separations_of(mass[members], plain[members], correlation, ks)
    table, k, beta = choose_setting(correct, plain, found.conditions, separations, max_cost)
    steering = tried[k, beta]
    return Calibration(
        steering=steering,
        fixed=replace(steering, direction=found.mean_direction(steering.heads)),
        correlation=correlation,
        specialists_from=specialists_from,
        heads_of_all=best_heads(correlate(mass, plain, 1, seed).r, k),
        table=table,
        ids=found.ids,
    )


def _members(found: ItemActivations, condition: str | None) -> Bool[Tensor, " item"]:
    """Which items the specialists are found on."""
    conditions = found.conditions
    if condition is None:
        return torch.ones(len(found.items), dtype=torch.bool)
    if condition not in conditions:
        raise ValueError(f"no items of condition {condition!r}; there are {', '.join(conditions)}")
    return conditions[condition]


def candidates(
    model: HookedAudioTransformer,
    correlation: Correlation,
    ks: Sequence[int],
    betas: Sequence[float | int],
    adaptive: str,
    data: dict[str, Any],
) -> dict[tuple[int, float], AudioSilenceSteering]:
    """The steering of every (k, beta) to choose from, beta 0 among them, in ascending order.

    Args:
        data: what the items are that the correlation is of, for the provenance.

    Raises:
        ValueError: where the correlation is undefined, or has not so many heads.
    """
    if correlation.undefined is not None:
        raise ValueError(f"there are no specialist heads to steer by: {correlation.undefined}")
    provenance = {"model": model_facts(model), "data": data, "versions": versions()}
    return {
        (k, beta): AudioSilenceSteering(
            tuple(best_heads(correlation.r, k)), beta, adaptive, provenance=provenance
        )
        for k in sorted(set(ks))
        for beta in sorted({0.0, *map(float, betas)})
    }


def separations_of(
    mass: Float[Tensor, "item layer head"],
    correct: Bool[Tensor, " item"],
    correlation: Correlation,
    ks: Sequence[int],
) -> dict[int, float]:
    """Of each k, the AUROC of its heads' listening score for a right answer."""
    return {
        k: auroc(listening_score(mass, best_heads(correlation.r, k)), correct, n_resamples=1).value
        for k in ks
    }


def choose_setting(
    correct: dict[tuple[int, float], Bool[Tensor, " item"]],
    plain: Bool[Tensor, " item"],
    conditions: dict[str, Bool[Tensor, " item"]],
    separations: dict[int, float],
    max_cost: float | int,
) -> tuple[pd.DataFrame, int, float]:
    """The best k and beta by the rule of `calibrate`, and the table that they were chosen from.

    Args:
        correct: what is answered right under each (k, beta); beta 0 is among them.
        plain: what is answered right without steering.
        separations: of each k, the AUROC of its heads' listening score.
    """
    table = _table_of_settings(correct, plain, conditions)
    table.insert(1, "auroc", table["k"].map(separations))
    k, beta = _choose(table, max_cost)
    table["chosen"] = (table["k"] == k) & (table["beta"] == beta)
    return table, k, beta


def _table_of_settings(
    correct: dict[tuple[int, float], Bool[Tensor, " item"]],
    plain: Bool[Tensor, " item"],
    conditions: dict[str, Bool[Tensor, " item"]],
) -> pd.DataFrame:
    rows = []
    for (k, beta), right in correct.items():
        for name, members in conditions.items():
            accuracy = float(right[members].double().mean())
            change = accuracy - float(plain[members].double().mean())
            rows.append((k, beta, name, int(members.sum()), accuracy, change))
    return pd.DataFrame(rows, columns=["k", "beta", "condition", "n", "accuracy", "change"])


def _choose(table: pd.DataFrame, max_cost: float | int) -> tuple[int, float]:
    """The k that separates best, and then the beta of highest accuracy that costs little enough."""
    settings = table.groupby(["k", "beta"], as_index=False).agg(
        auroc=("auroc", "first"), accuracy=("accuracy", "mean"), worst=("change", "min")
    )
    allowed = settings[settings["worst"] >= -max_cost - 1e-9].round(9)
    order = ["auroc", "k", "accuracy", "beta"]
    first = allowed.sort_values(order, ascending=[False, True, False, True]).index[0]
    best = settings.loc[first]  # as it was tried, not rounded
    return int(best["k"]), float(best["beta"])
