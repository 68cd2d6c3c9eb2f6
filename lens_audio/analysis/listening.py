"""Specialist heads and the listening score.

Glazer, Aharon, Fetaya, "Are Audio-Language Models Listening? Audio-Specialist Heads for Adaptive
Audio Steering", arXiv 2603.06854. For item x, audio positions A(x) and last prompt position T:

    m[l, h](x) = sum over j in A(x) of pattern[l, h, T, j]       (the mass)
    y(x)       = 1 if the answer is right, else 0
    r[l, h]    = Pearson correlation of m[l, h] and y over labelled items
    S          = the k heads of highest r                        (the specialists)
    score(x)   = mean of m[l, h](x) over S                       (the listening score)
"""

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio import files
from lens_audio.analysis.attention import audio_attention, audio_mass, heads_above
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import chosen_answers
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, check_items, split_items
from lens_audio.sites import check_pairs, head_name
from lens_audio.stats import Interval, auroc, correlation_test

MIN_ITEMS = 4  # of a split: a correlation over fewer says nothing
Match = Callable[[str, str, Sequence[str]], bool]  # (generated text, answer, choices) -> right?
LEVEL = 0.05  # of a corrected p below which a correlation is called significant
Head = tuple[int, int]


class MassAndCorrectness(NamedTuple):
    """Each item's audio mass at the last prompt position, and whether it was answered right."""

    mass: Float[Tensor, "item layer head"]
    correct: Bool[Tensor, " item"]


Measured = MassAndCorrectness  # until the next release


class Correlation(NamedTuple):
    """Pearson r of each head's mass with correctness, with one-sided permutation p-values.

    `p_corrected` compares with the largest r of all heads in each permutation, so it holds for all
    heads together (Westfall and Young's max statistic). NaN for a head whose mass never changes;
    everything is NaN where `undefined` says why.
    """

    r: Float[Tensor, "layer head"]
    p_value: Float[Tensor, "layer head"]
    p_corrected: Float[Tensor, "layer head"]
    undefined: str | None = None

    def significant(self, level: float = LEVEL) -> list[Head]:
        """The heads whose corrected p is below the level, highest r first."""
        n = int((self.p_corrected < level).sum())
        kept = self.r.masked_fill(~(self.p_corrected < level), torch.nan)
        return best_heads(kept, n) if n else []


def measure(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    *,
    match: Match | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 32,
    verbose: bool = True,
) -> MassAndCorrectness:
    """Mass and correctness of every item, streamed in batches.

    Args:
        items: `data.AudioQAItem`s whose question names the choices, such as the testbed's.
        match: judges generated text, as `evals.mmau.matches` does; without it the answer is the
            choice of highest probability.

    Raises:
        ValueError: for no items, two with the same id, or hooks set on the model.
    """
    model.check_no_hooks()
    check_items(items, needs=("answer",))
    masses, correct = [], []
    for batch, prompt in batches(model, items, batch_size, verbose, "listening"):
        masses.append(audio_mass(audio_attention(model, prompt)).cpu())
        if match is None:
            answers = chosen_answers(model, batch, prompt)
            correct += [item.answer == a for item, a in zip(batch, answers, strict=True)]
        else:
            texts = model.generate(prompt, max_new_tokens, return_type="str", verbose=False)
            texts = [texts] if isinstance(texts, str) else texts
            for item, text in zip(batch, texts, strict=True):
                assert item.answer is not None
                correct.append(match(text, item.answer, item.choices))
    return MassAndCorrectness(torch.cat(masses), torch.tensor(correct, dtype=torch.bool))


def correlate(
    mass: Float[Tensor, "item layer head"],
    correct: Bool[Tensor, " item"],
    n_permutations: int = 2000,
    seed: int = 0,
    conditions: Sequence[str] | None = None,
) -> Correlation:
    """Pearson correlation of every head's mass with correctness: `stats.correlation_test`.

    Args:
        conditions: of each item; then the correlation is within conditions (stratified), and those
            whose answers are all right or all wrong say nothing and are left out.

    Raises:
        ValueError: for fewer than 4 items, or no permutations.
    """
    n_items, *heads = mass.shape
    if n_items < MIN_ITEMS:
        raise ValueError(f"{n_items} items are too few for a correlation; give {MIN_ITEMS} or more")
    said = "right" if bool(correct.any()) else "wrong"
    reason = f"all {n_items} answers are {said}, so no correlation with correctness exists"
    groups = torch.zeros(n_items, dtype=torch.long)
    if conditions is not None:
        groups = torch.tensor([sorted(set(conditions)).index(name) for name in conditions])
        if not bool((correct == correct[0]).all()):
            reason = "in each condition all answers are right, or all wrong: no correlation within"
        mixed = [group for group in groups.unique() if len(correct[groups == group].unique()) > 1]
        telling = torch.isin(groups, torch.tensor(mixed, dtype=torch.long))
        mass, correct, groups = mass[telling], correct[telling], groups[telling]
    if len(correct.unique()) < 2:
        warnings.warn(f"specialist heads are undefined: {reason}", stacklevel=2)
        nan = torch.full(heads, torch.nan, dtype=torch.double)
        return Correlation(nan, nan.clone(), nan.clone(), reason)
    found = correlation_test(mass.flatten(1), correct, n_permutations, seed, groups)
    r, p, corrected = (values.view(heads) for values in found)
    return Correlation(r, p, corrected)


def best_heads(r: Float[Tensor, "layer head"], k: int) -> list[Head]:
    """The k heads of highest r, highest first; heads without an r are none of them.

    Raises:
        ValueError: if there are not k heads with an r.
    """
    defined = int((~r.isnan()).sum())
    if not 1 <= k <= defined:
        raise ValueError(f"cannot take {k} heads: {defined} of {r.numel()} have a correlation")
    order = r.nan_to_num(-torch.inf).flatten().argsort(descending=True, stable=True)
    return [divmod(int(i), r.shape[1]) for i in order[:k]]


def listening_score(
    mass: Float[Tensor, "*item layer head"], heads: Sequence[Head]
) -> Float[Tensor, "*item"]:
    """Mean mass over these heads: 0 (deaf) to 1.

    Raises:
        ValueError: for no heads, or heads that do not exist.
    """
    check_heads(heads, *mass.shape[-2:])
    layers, numbers = zip(*heads, strict=True)
    return mass[..., list(layers), list(numbers)].mean(-1)


def check_heads(heads: Sequence[Head], n_layers: int, n_heads: int) -> None:
    """Refuse an empty choice of (layer, head) pairs, and heads that the model does not have."""
    for head, counted in zip(heads, check_pairs(heads, n_layers, n_heads), strict=True):
        if tuple(head) != counted:
            raise ValueError(
                f"these are (layer, head) pairs counted from 0: not {head}, but {counted}"
            )
    if len(set(heads)) < len(heads):
        raise ValueError("a head is given twice")


class Within(NamedTuple):
    """What one condition says on its own."""

    n: int  # calibration items
    accuracy: float  # of them
    correlation: Correlation  # over them
    auroc: Interval  # of the listening score, over the test items of the condition


@dataclass(frozen=True, eq=False)
class Specialists:
    """The heads whose listening predicts right answers, and how they do on items not used for it.

    `calibration` and the heads come from `calibration_ids`; `test`, `test_scores` and
    `test_correct` from `test_ids` alone.
    """

    heads: list[Head]  # highest r first; empty where the correlation is undefined
    calibration: Correlation
    test: Correlation
    calibration_ids: list[str]
    test_ids: list[str]
    test_scores: Float[Tensor, " item"]  # listening score of the test items
    test_correct: Bool[Tensor, " item"]
    mean_mass: Float[Tensor, "layer head"]  # over the calibration items
    calibration_accuracy: float
    seed: int
    stratified: bool = False  # whether all correlations are within conditions
    floor: float | int = 0.0  # of mean mass; heads below it have no correlation
    test_conditions: list[str] = field(default_factory=list)  # of each test item
    within: dict[str, Within] = field(default_factory=dict)  # by condition

    def __repr__(self) -> str:
        items = f"{len(self.calibration_ids)} calibration and {len(self.test_ids)} test items"
        if self.undefined:
            return f"Specialists(none: {self.undefined}; {items})"
        heads = ", ".join(head_name(*head) for head in self.heads)
        return f"Specialists({heads}; {items}; AUROC {self.auroc})"

    def _repr_html_(self) -> str:
        table = self.to_dataframe().query("specialist > 0").sort_values("specialist")
        columns = ["layer", "head", "r_calibration", "p_corrected_calibration", "r_test"]
        return f"<p>{escape(repr(self))}</p>" + table[columns].to_html(
            index=False, float_format="%.3f"
        )

    @property
    def undefined(self) -> str | None:
        """Why there are no specialists, if there are none."""
        return self.calibration.undefined

    @property
    def auroc(self) -> Interval:
        """Of the listening score for a right answer, on the test split, its conditions together."""
        return auroc(self.test_scores, self.test_correct, seed=self.seed)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head: r and p on either split, also by condition, and its place from 1.

        `significant` is a corrected p below 0.05, on the calibration items.
        """
        n_layers, n_heads = self.calibration.r.shape
        index = pd.MultiIndex.from_product(
            [range(n_layers), range(n_heads)], names=["layer", "head"]
        )
        columns = {"mean_mass_calibration": self.mean_mass.flatten().numpy()} | {
            f"{name}_{split}": getattr(found, name).flatten().numpy()
            for split, found in (("calibration", self.calibration), ("test", self.test))
            for name in ("r", "p_value", "p_corrected")
        }
        table = pd.DataFrame(columns, index=index).reset_index()
        places = {head: place for place, head in enumerate(self.heads, 1)}
        for condition, part in self.within.items():
            for name in ("r", "p_corrected"):
                table[f"{name}_calibration_{condition}"] = (
                    getattr(part.correlation, name).flatten().numpy()
                )
        table["significant"] = table["p_corrected_calibration"] < LEVEL
        table["specialist"] = [
            places.get(h, 0) for h in zip(table["layer"], table["head"], strict=True)
        ]
        return table

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Heads, splits, seed and the table of all heads; NaN is null."""
        facts = {
            "heads": self.heads,
            "undefined": self.undefined,
            "stratified": self.stratified,
            "floor": self.floor,
            "significant": self.calibration.significant(),
            "conditions": {
                name: {
                    "n": part.n,
                    "accuracy": part.accuracy,
                    "auroc": part.auroc.to_dict(),
                    "undefined": part.correlation.undefined,
                }
                for name, part in self.within.items()
            },
            "seed": self.seed,
            "calibration_ids": self.calibration_ids,
            "test_ids": self.test_ids,
            "calibration_accuracy": self.calibration_accuracy,
            "table": json.loads(self.to_dataframe().to_json(orient="records")),
        }
        files.write_text(path, json.dumps(facts, indent=1) + "\n")


def find_specialists(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    k: int = 8,
    *,
    split: float = 0.5,
    seed: int = 0,
    n_permutations: int = 2000,
    stratified: bool = False,
    floor: float | int = 0.0,
    match: Match | None = None,
    batch_size: int = 16,
    verbose: bool = True,
) -> Specialists:
    """The k heads whose audio mass correlates most with right answers, on a held-out split.

    Args:
        items: as in `measure`; some must be answered wrong.
        split: the share of each condition that calibrates; the heads never see the rest.
        seed: of the split and the permutations.
        stratified: correlate within conditions, so that a head that only tells one condition from
            another is no specialist. By default over all items together, as in the paper.
        floor: only heads of this mean mass or more over the calibration items are ranked, and fewer
            than k found if there are fewer. 0 ranks all, as in the paper: heads of hardly any mass,
            which may correlate but cannot read much, are then among them.
        match: as in `measure`.

    Raises:
        ValueError: for too few items, a share outside (0, 1), or more heads than there are.
    """
    check_items(items, least=2 * MIN_ITEMS, needs=("answer",))
    n_all = model.cfg.n_layers * model.cfg.n_heads
    if not 1 <= k <= n_all:
        raise ValueError(f"cannot take {k} heads: this model has {n_all}")
    chosen, held_out = split_items(items, split, seed)
    measured = measure(
        model, [*chosen, *held_out], match=match, batch_size=batch_size, verbose=verbose
    )
    n = len(chosen)
    return specialists_of(
        MassAndCorrectness(measured.mass[:n], measured.correct[:n]),
        MassAndCorrectness(measured.mass[n:], measured.correct[n:]),
        (chosen, held_out),
        k=k,
        seed=seed,
        n_permutations=n_permutations,
        stratified=stratified,
        floor=floor,
    )


def specialists_of(
    calibration: MassAndCorrectness,
    test: MassAndCorrectness,
    items: tuple[Sequence[AudioQAItem], Sequence[AudioQAItem]],
    *,
    k: int,
    seed: int = 0,
    n_permutations: int = 2000,
    stratified: bool = False,
    floor: float | int = 0.0,
) -> Specialists:
    """`find_specialists` where both splits are measured already."""
    here, there = ([item.condition for item in part] for part in items)
    too_low = ~heads_above(calibration.mass, floor)
    ranked, asked = (  # a mass that never changes has no correlation
        MassAndCorrectness(part.mass.masked_fill(too_low, 0.0), part.correct)
        for part in (calibration, test)
    )
    found = correlate(*ranked, n_permutations, seed, here if stratified else None)
    if floor > 0:
        k = min(k, int((~found.r.isnan()).sum()))
    heads = [] if found.undefined else best_heads(found.r, k)
    nan = torch.full((len(test.correct),), torch.nan)
    scores = listening_score(test.mass, heads) if heads else nan
    within = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these reasons are in the result
        held_out = correlate(*asked, n_permutations, seed + 1, there if stratified else None)
        for name in dict.fromkeys(here):
            mine, theirs = (torch.tensor([c == name for c in part]) for part in (here, there))
            if int(mine.sum()) < MIN_ITEMS:
                continue
            mass, right = ranked.mass[mine], ranked.correct[mine]
            within[name] = Within(
                len(right),
                float(right.double().mean()),
                correlate(mass, right, n_permutations, seed),
                auroc(scores[theirs], test.correct[theirs], seed=seed),
            )
    return Specialists(
        heads=heads,
        calibration=found,
        test=held_out,
        calibration_ids=[item.id for item in items[0]],
        test_ids=[item.id for item in items[1]],
        test_scores=scores,
        test_correct=test.correct,
        mean_mass=calibration.mass.mean(0),
        calibration_accuracy=float(calibration.correct.double().mean()),
        seed=seed,
        stratified=stratified,
        floor=floor,
        test_conditions=there,
        within=within,
    )
