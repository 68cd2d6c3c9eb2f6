"""The first sentence of a steering report: what its table bears, and no more."""

import re

import pandas as pd
import pytest
import torch

from lens_audio.stats import Interval
from lens_audio.steering import AudioSilenceSteering, SteeringReport
from lens_audio.steering.audio_silence.steering_report import AFTER, CONFLICT, OURS, RANDOM

NOTHING = (0.0, 0.0, 0.0)


def rows(
    condition: str, ours: float, other: float, lead: tuple[float, ...], control: str = AFTER
) -> list[dict]:
    """What the verdict reads: both changes, and the lead over a control with its interval."""
    changes = {OURS: (ours, NOTHING), control: (other, lead)}
    return [
        {
            "condition": condition, "method": method,
            "change": change, "change_low": change, "change_high": change, "change_over": "items",
            "lead": ahead[0], "lead_low": ahead[1], "lead_high": ahead[2],
            "lead_over": "items and draws",
        }
        for method, (change, ahead) in changes.items()
    ]  # fmt: skip


def made(*tables: list[dict], beta: float = 2.0, adaptive: str = "constant") -> SteeringReport:
    none = Interval.undefined_because("made by hand")
    return SteeringReport(
        steering=AudioSilenceSteering(((0, 1),), beta, adaptive),
        table=pd.DataFrame([row for table in tables for row in table]),
        curves=pd.DataFrame(), layers=pd.DataFrame(),
        scores=torch.zeros(1), by_audio=torch.ones(1).bool(), conflict=torch.ones(1).bool(),
        auroc_conflict=none, auroc_of_all=none, auroc_all=none, baselines={},
        text_only_changed=0, n_text_only=0, test_ids=["a"], draws={}, betas={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lead", "said", "numbers"),
    [
        ((0.53, 0.47, 0.61), "The layers of the chosen heads lead other layers by 53.0 points",
         (47, 61)),
        ((-0.2, -0.3, -0.1), "Other layers lead the layers of the chosen heads by 20.0 points",
         (10, 30)),
        ((0.2, -0.1, 0.5), "The layers of the chosen heads do not lead other layers: 20.0 points",
         (-10, 50)),
        (NOTHING, "The layers of the chosen heads do not lead other layers: 0.0 points", (0, 0)),
    ],
)  # fmt: skip
def test_the_sentence_follows_from_the_lead_over_other_layers(lead, said, numbers) -> None:
    found = made(rows(CONFLICT, 0.7, 0.2, lead)).verdict
    assert found.startswith(said)
    bounds = re.search(r"points \[(.*?), (.*?)\]", found)
    assert tuple(map(float, bounds.groups())) == numbers
    assert found.endswith("(conflict: +70.0 points against +20.0).")


def test_without_other_layers_random_heads_stand_in_and_the_sentence_says_so() -> None:
    found = made(rows(CONFLICT, 0.3, 0.1, (0.2, 0.1, 0.3), RANDOM)).verdict
    assert found.startswith("The chosen heads lead random heads by 20.0 points [10.0, 30.0]")
    assert "no other layer that the audio has reached is left" in found


def test_strength_zero_is_told_after_what_the_table_has() -> None:
    found = made(rows(CONFLICT, 0.0, 0.3, (-0.3, -0.4, -0.2)), beta=0.0).verdict
    assert found.startswith("Other layers lead")
    assert "calibration chose strength 0, so steering changes nothing" in found


def test_the_conflict_items_decide_where_there_are_any() -> None:
    gains, loses = (0.3, 0.1, (0.2, 0.1, 0.3)), (0.1, 0.3, (-0.2, -0.3, -0.1))
    both = made(rows("captionless", *loses), rows(CONFLICT, *gains)).verdict
    assert both.startswith("The layers of the chosen heads lead")
    without = made(rows("captionless", *loses), rows("truthful", *gains)).verdict
    assert without.startswith("Other layers lead")
    assert "(captionless: " in without


@pytest.mark.parametrize("adaptive", ["constant", "listening"])
def test_heads_of_one_layer_are_said_to_be_alike(adaptive) -> None:
    said = made(adaptive=adaptive).depends_on
    assert said.startswith("Heads of one layer cannot be told apart by this steering")
    assert ("how much of it" in said) == (adaptive == "listening")
