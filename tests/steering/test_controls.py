"""What the report sets beside the specialists: other layers, each with a strength of its own."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from lens_audio import stats, testbed
from lens_audio.stats import auroc
from lens_audio.steering import AudioSilenceSteering, calibrate, report
from lens_audio.steering.audio_silence.calibrate import best_strength
from lens_audio.steering.audio_silence.contrastive import contrastive_choices
from lens_audio.steering.audio_silence.controls import baselines_of, draw_controls
from lens_audio.steering.audio_silence.item_activations import item_activations
from lens_audio.steering.audio_silence.steering_report import (
    AFTER,
    BEFORE,
    CONTRASTIVE,
    FIXED,
    OURS,
    RANDOM,
)

SETTINGS = {"ks": (1, 2), "betas": (1, 4), "n_permutations": 5, "verbose": False}


@pytest.fixture(scope="module")
def deaf_below(model):
    """The embedded checkpoint whose attention writes nothing in layer 0: there s is zero."""
    copied = deepcopy(model)
    with torch.no_grad():
        copied.blocks[0].attn.o_proj.weight.zero_()
    return copied


@pytest.fixture(scope="module")
def calibration(deaf_below, items):
    """Some answers are the caption's, so that some are wrong."""
    by_caption = [replace(item, answer=item.captioned) for item in items[-4:]]
    found = calibrate(deaf_below, items[:8] + items[-8:-4] + by_caption, **SETTINGS)
    return replace(found, steering=replace(found.steering, heads=((2, 1), (2, 3))))


@pytest.fixture(scope="module")
def tested(deaf_below, calibration):
    fresh = testbed.make_items(4, 90) + testbed.make_items(6, 91, caption="false")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "N_RESAMPLES", 20)
        return report(deaf_below, calibration, fresh, n_draws=3, n_text_only=2, verbose=False)


def test_a_layer_is_before_the_readers_where_the_audio_has_not_reached(calibration) -> None:
    shifts = calibration.activations.shifts()
    assert shifts[0] == 0
    assert bool((shifts[1:] > 0.01).all())
    assert calibration.layers_before == [0]


def test_draws_are_of_no_layer_of_the_specialists(model, calibration) -> None:
    steering = calibration.steering
    draws = draw_controls(model, calibration, 5, seed=0)
    layers = {name: {l for draw in some for l, _ in draw} for name, some in draws.items()}
    assert layers[BEFORE] == {0}
    assert layers[AFTER] <= {1, 3}
    assert not set(steering.heads) & {head for draw in draws[RANDOM] for head in draw}
    assert all(len(draw) == 2 for some in draws.values() for draw in some)


def test_there_are_no_other_layers_where_the_specialists_are_in_all(model, calibration) -> None:
    steering = AudioSilenceSteering(((1, 1), (2, 3), (3, 0)))
    draws = draw_controls(model, replace(calibration, steering=steering), 2, seed=0)
    assert list(draws) == [RANDOM, BEFORE]


def test_each_draw_has_the_strength_that_the_rule_gives_it(deaf_below, tested, calibration) -> None:
    found = calibration.activations
    for method in (RANDOM, AFTER):
        for heads, beta in zip(tested.draws[method], tested.betas[method], strict=True):
            draw = replace(calibration.steering, heads=tuple(heads))
            right = {b: found.correct(deaf_below, draw.with_beta(b)) for b in calibration.betas}
            assert beta == best_strength(right, found.conditions, calibration.max_cost)
    assert tested.betas[FIXED] == [calibration.fixed.beta]
    assert tested.betas[OURS] == [calibration.steering.beta]


def test_before_the_readers_nothing_is_gained(tested) -> None:
    assert tested.row("conflict", BEFORE)["change"] == 0
    assert tested.betas[BEFORE] == [0.0] * 3
    curve = tested.curves.query("method == @BEFORE and condition == 'conflict'")
    assert curve["accuracy"].nunique() == 1


def test_contrastive_decoding_has_a_strength_by_the_same_rule(
    deaf_below, tested, calibration
) -> None:
    found = calibration.activations
    right = {
        beta: (contrastive_choices(deaf_below, found, beta) == found.answers)
        for beta in calibration.betas
    }
    expected = best_strength(right, found.conditions, calibration.max_cost)
    assert tested.betas[CONTRASTIVE] == [expected]


def test_single_layers_are_steering_by_a_head_of_each(deaf_below, tested, calibration) -> None:
    table = tested.layers
    assert set(table["layer"]) == {0, 1, 2, 3}
    fresh = testbed.make_items(4, 90) + testbed.make_items(6, 91, caption="false")
    found = item_activations(deaf_below, fresh, verbose=False)
    right = found.correct(deaf_below, AudioSilenceSteering(((2, 0),), 4.0))
    row = table.query("layer == 2 and beta == 4 and condition == 'conflict'").iloc[0]
    assert row["accuracy"] == float(right[4:].double().mean())
    assert set(table.query("layer == 0 and condition == 'conflict'")["accuracy"].round(9)) == {
        round(float(tested.row("conflict", "unsteered")["accuracy"]), 9)
    }


def test_baselines_are_of_the_caption_the_snr_and_the_confidence(model) -> None:
    scenes = testbed.make_scene_items(12, 5, caption="false")
    found = item_activations(model, scenes, verbose=False)
    by_audio = torch.arange(12) % 3 == 0
    everyone = torch.ones(12, dtype=torch.bool)
    baselines = baselines_of(found, by_audio, everyone, seed=0)
    assert list(baselines) == ["the caption is worded plainly", "SNR", "confidence of the answer"]
    snr = torch.tensor([item.snr_db for item in scenes])
    assert baselines["SNR"] == auroc(snr, by_audio, seed=0)
    plain = torch.tensor([float(not item.firm) for item in scenes])
    assert baselines["the caption is worded plainly"] == auroc(plain, by_audio, seed=0)


def test_baselines_that_the_items_do_not_tell_are_left_out(model, items) -> None:
    found = item_activations(model, items[-4:], verbose=False)
    by_audio, conflict = torch.arange(4) < 2, torch.ones(4, dtype=torch.bool)
    assert "SNR" not in baselines_of(found, by_audio, conflict, seed=0)
    assert baselines_of(found, by_audio, ~conflict, seed=0) == {}
