"""Choosing k and beta, on one split of the items.

A benchmark and `calibrate` choose by the same rule, `choose_setting`, from what is answered right
under each of the same `candidates`. They differ in how answers come about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.attention import FLOOR, heads_above
from lens_audio.analysis.listening import (
    Correlation,
    Head,
    best_heads,
    correlate,
    listening_score,
)
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.fingerprint import versions
from lens_audio.stats import auroc
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.steering.audio_silence.item_activations import ItemActivations, item_activations
from lens_audio.steering.storage import model_facts

KS = (2, 4, 8, 12)
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0)
REACHED = 1e-3  # of the final representation's norm: an s this large means that audio has come

# Which items are answered right, at a strength.
Answers = Callable[[ItemActivations, float], Bool[Tensor, " item"]]


class Separation(NamedTuple):
    """How well the heads of one k tell right answers from wrong ones, and in how many layers."""

    auroc: float
    n_layers: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """The chosen steering, and what it was chosen from. All of it is of the calibration split."""

    steering: AudioSilenceSteering
    fixed: (
        AudioSilenceSteering  # the mean s of this split instead of the item's own, at its own beta
    )
    correlation: Correlation
    specialists_from: str | None  # the condition whose items the correlation is of; None is all
    heads_of_all: list[Head]  # as many heads, found on the items of all conditions
    other_heads: dict[str, list[Head]]  # what other rules find: see `calibrate`, floor
    table: pd.DataFrame  # k, auroc, layers, beta, condition, n, accuracy, change, chosen
    activations: ItemActivations
    max_cost: float | int
    floor: float | int

    @property
    def ids(self) -> list[str]:
        """Of the calibration items."""
        return self.activations.ids

    @property
    def betas(self) -> list[float]:
        """The strengths that were tried, 0 among them, ascending."""
        return sorted(set(map(float, self.table["beta"])))

    @property
    def layers_before(self) -> list[int]:
        """The layers before any audio has reached the last position, where s is zero: its mean norm
        is below a thousandth of the final representation's.
        """
        return torch.nonzero(self.activations.shifts() < REACHED)[:, 0].tolist()

    def own_strength(self, answers: Answers) -> float:
        """The strength that the rule of `calibrate` gives another method on the same items."""
        found = self.activations
        right = {beta: answers(found, beta) for beta in self.betas}
        return best_strength(right, found.conditions, self.max_cost)

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
    floor: float | int = 0.0,
    seed: int = 0,
    n_permutations: int = 2000,
    batch_size: int = 16,
    verbose: bool = True,
    data: str | None = None,
) -> Calibration:
    """Choose the number of specialists and the strength.

    k is the one whose listening score best separates right from wrong answers, by AUROC over the
    items that the specialists are found on; of equals (within 1e-9) the one whose heads lie in
    fewest layers, and then the smallest. Steering hardly tells ks apart, as only the layers matter
    to s. beta is then the one of highest mean accuracy over the conditions, among those where no
    condition loses more than `max_cost` against beta 0; of equals the smallest. 0 is always among
    them, so that doing nothing can win.

    Args:
        items: items (see `analysis.listening.measure`) of the calibration split, each with a
            recording.
        specialists_from: find the specialists on the items of this condition; by default on all,
            as in the paper. Where conditions differ in accuracy and in length of text, correctness
            over all of them says first of all which condition an item is of, and so do the heads
            that correlate with it; within one condition it says whether the audio was heard.
        max_cost: of accuracy, 0.02 is two points.
        floor: only heads of this mean audio mass or more, over the items that the specialists are
            found on, are ranked; 0 ranks all, as in the paper. `other_heads` has what is found the
            other way (above 0.02 without a floor, without one above a floor), and what the floor
            alone finds, the heads above it of greatest mean mass.
        data: what the items are, for the provenance.

    Raises:
        ValueError: for too few items, or without a recording, no ks or betas, more heads than there
            are, or a correlation that is undefined as all answers are right, or all wrong.
    """
    if not ks or not betas:
        raise ValueError("give at least one k and one beta to choose from")
    check_items(items, "calibration items", needs=("audio", "answer"))
    found = item_activations(
        model, items, batch_size=batch_size, verbose=verbose, what="calibrating"
    )
    all_mass, plain = found.mass.cpu(), found.correct(model)
    members = _members(found, specialists_from)
    mass, answered = all_mass[members], plain[members]
    too_low = ~heads_above(mass, floor)
    correlation = correlate(mass.masked_fill(too_low, 0.0), answered, n_permutations, seed)
    ks = _possible(ks, correlation, floor)
    facts: dict[str, Any] = {
        "what": data,
        "n_items": len(plain),
        "specialists_from": specialists_from,
    }
    facts |= {"floor": floor, "seed": seed}
    tried = candidates(model, correlation, ks, betas, adaptive, facts)
    correct = {setting: found.correct(model, steering) for setting, steering in tried.items()}
    separations = separations_of(mass, answered, correlation, ks)
    table, k, beta = choose_setting(correct, plain, found.conditions, separations, max_cost)
    steering = tried[k, beta]
    of_all = correlate(all_mass.masked_fill(too_low, 0.0), plain, 1, seed).r
    chosen = Calibration(
        steering=steering,
        fixed=replace(steering, direction=found.mean_direction(steering.heads)),
        correlation=correlation,
        specialists_from=specialists_from,
        heads_of_all=best_heads(of_all, min(k, int((~of_all.isnan()).sum()))),
        other_heads=_other_heads(mass, correlate(mass, answered, 1, seed).r, k, floor),
        table=table,
        activations=found,
        max_cost=max_cost,
        floor=floor,
    )
    strength = chosen.own_strength(steered(model, chosen.fixed))
    return replace(chosen, fixed=chosen.fixed.with_beta(strength))


def steered(model: HookedAudioTransformer, steering: AudioSilenceSteering) -> Answers:
    """The answers of the model under this steering, at any strength."""
    return lambda found, beta: found.correct(model, steering.with_beta(beta))


def _possible(ks: Sequence[int], correlation: Correlation, floor: float | int) -> list[int]:
    """The ks that a floor leaves enough heads for; without a floor all."""
    if floor == 0 or correlation.undefined is not None:
        return list(ks)
    n = int((~correlation.r.isnan()).sum())
    if n < min(ks):
        raise ValueError(
            f"only {n} heads of a mean audio mass of {floor:g} or more have a correlation, but the "
            f"smallest k is {min(ks)}; give a lower floor or a smaller k"
        )
    return [k for k in ks if k <= n]


def _other_heads(
    mass: Float[Tensor, "item layer head"],
    r: Float[Tensor, "layer head"],
    k: int,
    floor: float | int,
) -> dict[str, list[Head]]:
    """What other rules find: at most k heads each, and none by a rule that no head meets."""
    level = floor or FLOOR
    mean = mass.mean(0)
    above = mean >= level
    if floor:
        ranked = {"heads by r without a floor": r}
    else:
        ranked = {f"heads by r above mass {level:g}": r.masked_fill(~above, torch.nan)}
    ranked["heads by mean mass"] = mean.masked_fill(~above, torch.nan)
    counts = {rule: min(k, int((~by.isnan()).sum())) for rule, by in ranked.items()}
    return {rule: best_heads(ranked[rule], n) for rule, n in counts.items() if n}


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
) -> dict[int, Separation]:
    """Of each k, the AUROC of its heads' listening score for a right answer, and their layers."""
    found = {}
    for k in ks:
        heads = best_heads(correlation.r, k)
        separation = auroc(listening_score(mass, heads), correct, n_resamples=1).value
        found[k] = Separation(separation, len({layer for layer, _ in heads}))
    return found


def choose_setting(
    correct: dict[tuple[int, float], Bool[Tensor, " item"]],
    plain: Bool[Tensor, " item"],
    conditions: dict[str, Bool[Tensor, " item"]],
    separations: dict[int, Separation],
    max_cost: float | int,
) -> tuple[pd.DataFrame, int, float]:
    """The best k and beta by the rule of `calibrate`, and the table that they were chosen from.

    Args:
        correct: what is answered right under each (k, beta); beta 0 is among them.
        plain: what is answered right without steering.
        separations: of each k, the AUROC of its heads' listening score, and how many layers they
            lie in.
    """
    table = _table_of_settings(correct, plain, conditions)
    table.insert(1, "auroc", table["k"].map({k: found.auroc for k, found in separations.items()}))
    table.insert(
        2, "layers", table["k"].map({k: found.n_layers for k, found in separations.items()})
    )
    k = min(
        separations, key=lambda k: (-round(separations[k].auroc, 9), separations[k].n_layers, k)
    )
    right = {beta: answers for (tried, beta), answers in correct.items() if tried == k}
    beta = best_strength(right, conditions, max_cost)
    table["chosen"] = (table["k"] == k) & (table["beta"] == beta)
    return table, k, beta


def best_strength(
    correct: Mapping[float, Bool[Tensor, " item"]],
    conditions: Mapping[str, Bool[Tensor, " item"]],
    max_cost: float | int,
) -> float:
    """The strength of highest mean accuracy over the conditions, among those where no condition
    loses more than `max_cost` against strength 0; of equals (within 1e-9) the smallest.
    """
    shares = {
        beta: torch.stack([right[members].double().mean() for members in conditions.values()])
        for beta, right in correct.items()
    }
    allowed = {
        beta: round(float(share.mean()), 9)
        for beta, share in shares.items()
        if float((share - shares[0.0]).min()) >= -max_cost - 1e-9
    }
    return min(allowed, key=lambda beta: (-allowed[beta], beta))


def _table_of_settings(
    correct: dict[tuple[int, float], Bool[Tensor, " item"]],
    plain: Bool[Tensor, " item"],
    conditions: dict[str, Bool[Tensor, " item"]],
) -> pd.DataFrame:
    tables = []
    for k in dict.fromkeys(k for k, _ in correct):
        right = {beta: answers for (tried, beta), answers in correct.items() if tried == k}
        tables.append(table_of_strengths(right, plain, conditions))
        tables[-1].insert(0, "k", k)
    return pd.concat(tables, ignore_index=True)


def table_of_strengths(
    correct: Mapping[float, Bool[Tensor, " item"]],
    plain: Bool[Tensor, " item"],
    conditions: Mapping[str, Bool[Tensor, " item"]],
    name: str = "beta",
) -> pd.DataFrame:
    """Accuracy at each strength in each condition, and its change against what is answered plainly."""
    rows = []
    for strength, right in correct.items():
        for condition, members in conditions.items():
            accuracy = float(right[members].double().mean())
            change = accuracy - float(plain[members].double().mean())
            rows.append((strength, condition, int(members.sum()), accuracy, change))
    return pd.DataFrame(rows, columns=[name, "condition", "n", "accuracy", "change"])
