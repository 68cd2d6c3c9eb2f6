"""What calibrated steering did on other items, with every control beside it."""

import json
import os
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio import files
from lens_audio.analysis.listening import Head
from lens_audio.stats import Interval
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.tables import write_table

CONFLICT = "conflict"
# Methods. "Before" and "after" are of the audio's arrival at the last position.
UNSTEERED, OURS, FIXED = "unsteered", "audio-silence", "fixed direction"
CONTRASTIVE = "contrastive decoding"
RANDOM, BEFORE, AFTER = "random heads", "other layers, before", "other layers, after"


@dataclass(frozen=True, eq=False)
class SteeringReport:
    """Accuracy of each method in each condition of the test split, and the listening score.

    `table` has one row a condition and method: `beta` (of random heads the mean over draws),
    `accuracy` with its interval (Wilson; for random heads the range of 95 % of the draws), `change`
    against the unsteered model and `lead`, by how much audio-silence steering is ahead of the
    method, both paired over items with bootstrap intervals (random draws resampled too). Each has
    its `…_low`, its `…_high`, and in `…_over` what the interval is over: "items", "draws" or "items
    and draws". Every method, and every draw of random heads, has the strength that the rule which
    chose ours gives it on the calibration items.

    Random heads are any but the specialists; those of "other layers" are of layers that hold no
    specialist, told apart by whether the audio has reached the last position there: "before" that,
    s is zero by construction. `curves` has the accuracy of each method at every beta of the grid,
    and `layers` that of steering by each layer alone: nothing was chosen by either. `shift` is the
    mean norm of a layer's s on the calibration items, as a share of the final representation's.
    """

    steering: AudioSilenceSteering
    table: pd.DataFrame
    curves: pd.DataFrame  # method, condition, beta, accuracy, low, high, over
    layers: pd.DataFrame  # layer, shift, condition, beta, accuracy, low, high
    scores: Float[Tensor, " item"]  # listening score of the test items
    by_audio: Bool[Tensor, " item"]  # answered right, which in conflict means: as the audio says
    conflict: Bool[Tensor, " item"]  # which items have a caption against the audio
    auroc_conflict: Interval  # of the score for `by_audio`, among conflict items
    auroc_of_all: Interval  # the same, of the score by specialists found on all conditions
    auroc_all: Interval  # of the score for "silence would have changed the answer", all items
    baselines: dict[str, Interval]  # `auroc_conflict` of what is known without any head
    text_only_changed: int  # text-only prompts whose logits steering changed by even one bit
    n_text_only: int
    test_ids: list[str]
    draws: dict[str, list[list[Head]]]  # by method, the heads of every draw
    betas: dict[str, list[float]]  # by method, the strength of every draw

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
    def random_draws(self) -> list[list[Head]]:
        """The heads of every draw from all heads but the specialists."""
        return self.draws[RANDOM]

    @property
    def verdict(self) -> str:
        """In a sentence, what the table bears about which heads are chosen: the lead over others.

        The others are draws of other layers that the audio has reached, each at its own beta; where
        there are no such layers, as many random heads. One leads where the whole 95 % interval of
        the paired difference (over items and draws, in conflict) is on its side of 0. That no lead
        is found does not say that there is none.
        """
        conditions = list(self.table["condition"].unique())
        condition = CONFLICT if CONFLICT in conditions else conditions[0]
        has_others = AFTER in set(self.table["method"])
        control, named = (AFTER, "other layers") if has_others else (RANDOM, "random heads")
        ours = "the layers of the chosen heads" if has_others else "the chosen heads"
        lead = self.interval("lead", condition, control)
        if lead.high < 0:
            said = f"{named} lead {ours} by {_points(-lead.value, -lead.high, -lead.low)}"
        elif lead.low > 0:
            said = f"{ours} lead {named} by {_points(*lead[:3])}"
        else:
            said = f"{ours} do not lead {named}: {_points(*lead[:3])}"
        changes = [100 * self.interval("change", condition, m).value for m in (OURS, control)]
        notes = f"{condition}: {changes[0]:+.1f} points against {changes[1]:+.1f}"
        if not has_others:
            notes += ", and no other layer that the audio has reached is left to compare with"
        if self.steering.beta == 0:
            notes += "; calibration chose strength 0, so steering changes nothing"
        return f"{said[0].upper()}{said[1:]} ({notes})."

    @property
    def depends_on(self) -> str:
        """In a sentence, how this steering depends on the chosen heads."""
        said = (
            "Heads of one layer cannot be told apart by this steering: the direction that is added"
        )
        if self.steering.adaptive == "listening":
            return (
                f"{said} depends only on which layers hold the heads, and the heads themselves only "
                "set how much of it is added."
            )
        return f"{said} depends only on which layers hold the heads."

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
            "depends_on": self.depends_on,
            "provenance": self.steering.provenance,
            "table": json.loads(self.table.to_json(orient="records")),
            "auroc_conflict": self.auroc_conflict.to_dict(),
            "auroc_of_all": self.auroc_of_all.to_dict(),
            "auroc_all": self.auroc_all.to_dict(),
            "baselines": {name: found.to_dict() for name, found in self.baselines.items()},
            "text_only": {"changed": self.text_only_changed, "n": self.n_text_only},
            "draws": self.draws,
            "betas": self.betas,
            "test_ids": self.test_ids,
            "layers": json.loads(self.layers.to_json(orient="records")),
            "curves": json.loads(self.curves.to_json(orient="records")),
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """`to_dict` in a file."""
        files.write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def _points(value: float, low: float, high: float) -> str:
    """Percentage points with their interval: 53.2 points [46.6, 60.6]."""
    shown = (round(100 * x, 1) + 0.0 for x in (value, low, high))  # no -0.0
    return "{:.1f} points [{:.1f}, {:.1f}]".format(*shown)
