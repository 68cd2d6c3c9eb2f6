"""Strength scaled to each item, compared with a constant one at equal mean strength.

beta · (1 - listening score) and beta · (1 - confidence) steer every item less than beta does, so that a
comparison at equal beta says first of all what less steering does. Here their beta is raised until
the mean over some items' factors is the constant strength: what is left is for whom it is spent.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.listening import listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.stats import paired_difference, wilson
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.steering.audio_silence.item_activations import ItemActivations
from lens_audio.steering.audio_silence.settings import ADAPTIVE


def factors(
    steering: AudioSilenceSteering, found: ItemActivations, adaptive: str
) -> Float[Tensor, " item"]:
    """What beta is multiplied by for each item: 1; 1 - listening score; 1 - confidence.

    Raises:
        ValueError: for another `adaptive`.
    """
    if adaptive not in ADAPTIVE:
        raise ValueError(f"adaptive must be one of {ADAPTIVE}, not {adaptive!r}")
    if adaptive == "listening":
        return 1 - listening_score(found.mass, steering.heads)
    if adaptive == "confidence":
        return 1 - found.confidence
    return torch.ones_like(found.confidence)


def at_equal_strength(
    steering: AudioSilenceSteering, found: ItemActivations, adaptive: str, strength: float | int
) -> AudioSilenceSteering:
    """This steering, adaptive, with the beta whose mean strength over these items is `strength`.

    Raises:
        ValueError: for another `adaptive`, or where no item would be steered at all.
    """
    mean = float(factors(steering, found, adaptive)[found.has_audio].double().mean())
    if not mean > 0:
        raise ValueError(f"scaled by {adaptive}, no item would be steered: every factor is 0")
    return replace(steering, adaptive=adaptive, beta=strength / mean)


def compare_adaptive(
    model: HookedAudioTransformer,
    steering: AudioSilenceSteering,
    calibration: ItemActivations,
    test: ItemActivations,
    strengths: Sequence[float | int],
    seed: int = 0,
) -> pd.DataFrame:
    """Constant and adaptive strength at equal mean strength over the calibration items, on others.

    Returns:
        Columns adaptive, strength, beta, mean_strength (over the test items), condition, n, accuracy,
        low, high (Wilson), change, change_low, change_high (against constant strength, paired).
    """
    rows = []
    for strength in strengths:
        constant = test.correct(model, steering.with_beta(strength))
        for adaptive in ADAPTIVE:
            tried = at_equal_strength(steering, calibration, adaptive, strength)
            right = test.correct(model, tried)
            mean = tried.beta * factors(steering, test, adaptive)[test.has_audio].double().mean()
            for condition, members in test.conditions.items():
                share = wilson(right[members])
                change = paired_difference(right[members], constant[members], seed)
                facts = (adaptive, strength, tried.beta, float(mean), condition, int(members.sum()))
                rows.append((*facts, *share[:3], *change[:3]))
    columns = ["adaptive", "strength", "beta", "mean_strength", "condition", "n", "accuracy"]
    columns += ["low", "high", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)
