"""The first sentence of a steering report: what its table bears, and no more."""

import re

import pandas as pd
import pytest
import torch

from lens_audio.stats import Interval
from lens_audio.steering import AudioSilenceSteering, SteeringReport
from lens_audio.steering.audio_silence.controls import CONFLICT, OURS, RANDOM

NOTHING = (0.0, 0.0, 0.0)


def rows(condition: str, ours: float, random: float, lead: tuple[float, ...]) -> list[dict]:
    """What the verdict reads: both changes, and the lead over random heads with its interval."""
    changes = {OURS: (ours, NOTHING), RANDOM: (random, lead)}
    return [
        {
            "condition": condition, "method": method,
            "change": change, "change_low": change, "change_high": change, "change_over": "items",
            "lead": ahead[0], "lead_low": ahead[1], "lead_high": ahead[2],
            "lead_over": "items and draws",
        }
        for method, (change, ahead) in changes.items()
    ]  # fmt: skip


def verdict(*tables: list[dict], beta: float = 2.0) -> str:
    none = Interval.undefined_because("made by hand")
    return SteeringReport(
        steering=AudioSilenceSteering(((0, 1),), beta),
        table=pd.DataFrame([row for table in tables for row in table]),
        curves=pd.DataFrame(),
        scores=torch.zeros(1), by_audio=torch.ones(1).bool(), conflict=torch.ones(1).bool(),
        auroc_conflict=none, auroc_of_all=none, auroc_all=none,
        text_only_changed=0, n_text_only=0, test_ids=["a"], random_draws=[[(1, 1)]],
    ).verdict  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "random", "lead", "said"),
    [
        (0.1, 0.3, (-0.2, -0.3, -0.1), "Random heads gain more: choosing heads by correlation"),
        (-0.3, -0.1, (-0.2, -0.3, -0.1), "Random heads lose less: choosing heads by correlation"),
        (0.3, 0.1, (0.2, 0.1, 0.3), "The specialists gain more than as many random heads here"),
        (-0.1, -0.3, (0.2, 0.1, 0.3), "The specialists lose less than as many random heads here"),
        (0.3, 0.1, (0.2, -0.1, 0.5), "No difference between the specialists and as many random"),
        (0.1, 0.3, (-0.2, -0.5, 0.0), "No difference between the specialists and as many random"),
        (0.2, 0.2, NOTHING, "No difference between the specialists and as many random heads is"),
    ],
)
def test_the_sentence_follows_from_the_lead_over_random_heads(ours, random, lead, said) -> None:
    found = verdict(rows(CONFLICT, ours, random, lead))
    assert found.startswith(said)
    numbers = [float(n) for n in re.findall(r"[+-]\d+\.\d", found)]
    assert numbers == pytest.approx([100 * x for x in (ours, random, *lead)])
    assert found.endswith("over items and draws).")


def test_strength_zero_is_told_whatever_the_table_has() -> None:
    found = verdict(rows(CONFLICT, 0.0, 0.3, (-0.3, -0.4, -0.2)), beta=0.0)
    assert found.startswith("Calibration chose strength 0, so steering changes nothing")


def test_the_conflict_items_decide_where_there_are_any() -> None:
    gains, loses = (0.3, 0.1, (0.2, 0.1, 0.3)), (0.1, 0.3, (-0.2, -0.3, -0.1))
    both = verdict(rows("captionless", *loses), rows(CONFLICT, *gains))
    assert both.startswith("The specialists gain more")
    assert f"({CONFLICT}: " in both
    without = verdict(rows("captionless", *loses), rows("truthful", *gains))
    assert without.startswith("Random heads gain more")
    assert "(captionless: " in without
