"""Calibrated steering on other items, with every control beside it."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio import files
from lens_audio.analysis.listening import (
    listening_score,
)
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.stats import Interval, auroc, over_draws, paired_difference, said_over, wilson
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.steering.audio_silence.calibrate import Calibration
from lens_audio.steering.audio_silence.item_activations import ItemActivations, item_activations
from lens_audio.steering.knockout import random_heads
from lens_audio.tables import write_table

CONFLICT = "conflict"
OURS, RANDOM = "audio-silence", "random heads"  # methods


@dataclass(frozen=True, eq=False)
class SteeringReport:
    """Accuracy of each method in each condition of the test split, and the listening score.

    `table` has one row a condition and method: `accuracy` with its interval (Wilson; for random
    heads the range of 95 % of the draws), `change` against the unsteered model and `lead`, by how
    much audio-silence steering is ahead of the method, both paired over items with bootstrap
    intervals (random draws resampled too). Each has its `…_low`, its `…_high`, and in `…_over` what
    the interval is over: "items", "draws" or "items and draws". `curves` has the accuracy of
    each method at every beta of the grid, for figures: nothing was chosen by it.
    """

    steering: AudioSilenceSteering
    table: pd.DataFrame
    curves: pd.DataFrame  # method, condition, beta, accuracy, low, high, over
    scores: Float[Tensor, " item"]  # listening score of the test items
    by_audio: Bool[Tensor, " item"]  # answered right, which in conflict means: as the audio says
    conflict: Bool[Tensor, " item"]  # which items have a caption against the audio
    auroc_conflict: Interval  # of the score for `by_audio`, among conflict items
    auroc_of_all: Interval  # the same, of the score by specialists found on all conditions
    auroc_all: Interval  # of the score for "silence would have changed the answer", all items
    text_only_changed: int  # text-only prompts whose logits steering changed by even one bit
    n_text_only: int
    test_ids: list[str]
    random_draws: list[list[tuple[int, int]]]

    def __repr__(self) -> str:
        conditions = ", ".join(
            f"{condition} {self.row(condition, 'unsteered')['accuracy']:.3f} -> "
            f"{self.row(condition)['accuracy']:.3f}"
            for condition in self.table["condition"].unique()
        )
        return f"SteeringReport({len(self.test_ids)} items; accuracy unsteered -> steered: {conditions})"

    def _repr_html_(self) -> str:
        columns = ["condition", "method", "accuracy", "low", "high", "change", "lead"]
        table = self.table[[name for name in columns if name in self.table]]
        return f"<p>{escape(repr(self))}</p>" + table.to_html(index=False, float_format="%.3f")

    def row(self, condition: str, method: str = OURS) -> pd.Series:
        """One row of the table."""
        table = self.table
        return table[(table["condition"] == condition) & (table["method"] == method)].iloc[0]

    def interval(self, quantity: str, condition: str, method: str = OURS) -> Interval:
        """The `accuracy`, `change` or `lead` of a row of the table."""
        row = self.row(condition, method)
        low, high = float(row[f"{quantity}_low"]), float(row[f"{quantity}_high"])
        return Interval(float(row[quantity]), low, high, over=str(row[f"{quantity}_over"]))

    @property
    def verdict(self) -> str:
        """What the table bears about which heads are chosen: by the lead over random heads.

        The rule: one gains more where the whole 95 % interval of the paired difference (over items
        and draws, in conflict) is on its side of 0; otherwise no difference is found, which is not
        that there is none.
        """
        conditions = list(self.table["condition"].unique())
        condition = CONFLICT if CONFLICT in conditions else conditions[0]
        lead = self.interval("lead", condition, RANDOM)
        ours, random = (self.interval("change", condition, m).value for m in (OURS, RANDOM))
        if self.steering.beta == 0:
            said = "Calibration chose strength 0, so steering changes nothing"
        elif lead.high < 0:
            more = "gain more" if random > 0 else "lose less"
            said = f"Random heads {more}: choosing heads by correlation does not help here"
        elif lead.low > 0:
            more = "gain more" if ours > 0 else "lose less"
            said = f"The specialists {more} than as many random heads here"
        else:
            said = "No difference between the specialists and as many random heads is found here"
        numbers = "{:+.1f} points against {:+.1f}, difference {:+.1f} [{:+.1f}, {:+.1f}]".format(
            *(100 * x for x in (ours, random, *lead[:3]))
        )
        return f"{said} ({condition}: {numbers}{said_over(lead.over)})."

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """The table; `tables.read_table` reads it."""
        write_table(self.table, path)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON holds it; NaN is null."""
        return {
            "heads": [list(head) for head in self.steering.heads],
            "beta": self.steering.beta,
            "adaptive": self.steering.adaptive,
            "verdict": self.verdict,
            "provenance": self.steering.provenance,
            "table": json.loads(self.table.to_json(orient="records")),
            "auroc_conflict": self.auroc_conflict.to_dict(),
            "auroc_of_all": self.auroc_of_all.to_dict(),
            "auroc_all": self.auroc_all.to_dict(),
            "text_only": {"changed": self.text_only_changed, "n": self.n_text_only},
            "random_draws": self.random_draws,
            "test_ids": self.test_ids,
            "curves": json.loads(self.curves.to_json(orient="records")),
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """`to_dict` in a file."""
        files.write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


@torch.no_grad()
def report(
    model: HookedAudioTransformer,
    calibration: Calibration,
    items: Sequence[AudioQAItem],
    *,
    n_draws: int = 20,
    n_text_only: int = 32,
    seed: int = 1,
    batch_size: int = 16,
    verbose: bool = True,
) -> SteeringReport:
    """Measure the calibrated steering on items it was not calibrated on, with all controls.

    Args:
        items: items (see `analysis.listening.measure`) of the test split.
        n_draws: how many sets of random heads, as many heads as there are specialists.
        n_text_only: how many questions are asked without their audio, steered and not.

    Raises:
        ValueError: for items of the calibration split, no items, or too few heads to draw from.
    """
    check_items(items, needs=("answer",))
    seen = sorted(set(calibration.ids).intersection(item.id for item in items))
    if seen:
        raise ValueError(f"{len(seen)} test items were calibrated on, such as {seen[0]!r}")
    steering = calibration.steering
    draws = random_heads(
        model.cfg.n_layers, model.cfg.n_heads, len(steering.heads), n_draws, seed, steering.heads
    )
    found = item_activations(model, items, batch_size=batch_size, verbose=verbose, what="testing")
    methods = {
        "unsteered": [steering.with_beta(0)],
        OURS: [steering],
        "fixed direction": [calibration.fixed],
        RANDOM: [replace(steering, heads=tuple(heads)) for heads in draws],
    }
    correct = {name: _correct(model, found, some) for name, some in methods.items()}
    betas = sorted({0.0, steering.beta, *calibration.table["beta"]})
    scores = listening_score(found.mass, steering.heads).cpu()
    none = torch.zeros(len(items), dtype=torch.bool)
    conflict = found.conditions.get(CONFLICT, none)
    silence_decides = found.chosen(model) == found.chosen_over_silence(model)
    texts = [replace(item, audio=None) for item in items[:n_text_only]]
    return SteeringReport(
        steering=steering,
        table=_table_of_methods(correct, found.conditions, seed),
        curves=_curves(model, found, methods, betas),
        scores=scores,
        by_audio=correct["unsteered"],
        conflict=conflict,
        auroc_conflict=_auroc_conflict(scores, correct["unsteered"], conflict, seed),
        auroc_of_all=_auroc_conflict(
            listening_score(found.mass, calibration.heads_of_all).cpu(),
            correct["unsteered"],
            conflict,
            seed,
        ),
        auroc_all=auroc(scores, ~silence_decides.cpu(), seed=seed),
        text_only_changed=count_changed(model, texts, (steering, calibration.fixed), batch_size),
        n_text_only=len(texts),
        test_ids=found.ids,
        random_draws=draws,
    )


def _correct(
    model: HookedAudioTransformer, found: ItemActivations, steerings: Sequence[AudioSilenceSteering]
) -> Bool[Tensor, "*draw item"]:
    """Right answers under a method; one row a draw where it has several."""
    right = [found.correct(model, steering) for steering in steerings]
    return right[0] if len(right) == 1 else torch.stack(right)


def _share(right: Bool[Tensor, "*draw item"]) -> Interval:
    return wilson(right) if right.ndim == 1 else over_draws(right)


def _curves(
    model: HookedAudioTransformer,
    found: ItemActivations,
    methods: dict[str, list[AudioSilenceSteering]],
    betas: Sequence[float],
) -> pd.DataFrame:
    """Accuracy of each method at each beta, with its interval."""
    rows = []
    for name, steerings in methods.items():
        for beta in betas if name != "unsteered" else ():
            right = _correct(model, found, [s.with_beta(beta) for s in steerings])
            for condition, members in found.conditions.items():
                share = _share(right[..., members])
                rows.append((name, condition, beta, *share[:3], share.over))
    columns = ["method", "condition", "beta", "accuracy", "low", "high", "over"]
    return pd.DataFrame(rows, columns=columns)


def _table_of_methods(
    correct: dict[str, Tensor], conditions: dict[str, Bool[Tensor, " item"]], seed: int
) -> pd.DataFrame:
    rows = []
    for condition, members in conditions.items():
        here = {method: right[..., members] for method, right in correct.items()}
        for method, right in here.items():
            row: dict[str, Any] = {"condition": condition, "method": method, "n": right.shape[-1]}
            for name, interval in (
                ("accuracy", _share(right)),
                ("change", paired_difference(right, here["unsteered"], seed)),
                ("lead", paired_difference(here[OURS], right, seed)),
            ):
                row |= {
                    name: interval.value,
                    f"{name}_low": interval.low,
                    f"{name}_high": interval.high,
                    f"{name}_over": interval.over,
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _auroc_conflict(
    scores: Float[Tensor, " item"],
    by_audio: Bool[Tensor, " item"],
    conflict: Bool[Tensor, " item"],
    seed: int,
) -> Interval:
    """Of the listening score, for conflict items answered as the audio says."""
    if not bool(conflict.any()):
        return Interval.undefined_because("the data set has no conflict items")
    return auroc(scores[conflict], by_audio[conflict], seed=seed)


def count_changed(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    steerings: Sequence[AudioSilenceSteering],
    batch_size: int = 16,
) -> int:
    """How many items have logits that any of these steerings changes by even one bit."""
    changed = 0
    for batch, prompt in batches(model, items, batch_size, verbose=False):
        plain = model(prompt, logits_to_keep=1)
        differs = torch.zeros(len(batch), dtype=torch.bool, device=plain.device)
        for steering in steerings:
            with steering.attach(model):
                differs |= (model(prompt, logits_to_keep=1) != plain).any(-1).any(-1)
        changed += int(differs.sum())
    return changed
