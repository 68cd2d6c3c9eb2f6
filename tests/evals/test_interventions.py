"""Interventions are tuned on some clips, judged on others, beside controls, and shown on one page."""

from functools import partial

import pytest
import torch

import lens_audio as la
from lens_audio import hooks
from lens_audio.evals.interventions import (
    Intervention,
    ScaledAttention,
    compare_interventions,
    time_per_token,
)
from lens_audio.evals.runs import BASE
from lens_audio.plots.interventions import intervention_effects
from lens_audio.plots.pages.which_intervention import which_intervention_page
from lens_audio.stats import median_ratio
from lens_audio.steering import SteeringVector, contrastive
from lens_audio.steering.audio_silence.adaptive import at_equal_strength, factors

N = 8


@pytest.fixture(scope="module")
def planted():
    return la.HookedAudioTransformer.from_pretrained(
        la.testbed.checkpoint_dir("planted"), device="cpu"
    )


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    """Of contrastive decoding, a vector that does nothing, and deafness, which costs too much."""
    idle = SteeringVector.supplied(1e-6 * torch.ones(planted.cfg.d_model), 2)
    made = {
        "contrast": lambda calibration: Intervention("contrast", (2.0,), contrastive),
        "idle": lambda calibration: Intervention("idle", (1.0,), idle.scaled),
        "deaf": lambda calibration: Intervention(
            "deaf", (1.0,), lambda strength: hooks.knock_out_attention(keys="audio")
        ),
    }
    return compare_interventions(
        planted, "planted", tmp_path_factory.mktemp("interventions"), n_calibration=N, n_test=N,
        draws=2, seed=40, interventions=made, verbose=False,
    )  # fmt: skip


def test_what_does_nothing_or_costs_too_much_is_not_chosen(found):
    assert list(found.table["run"]) == ["contrast"]
    chosen = found.tuning[found.tuning["chosen"]]
    assert set(chosen["intervention"]) == {"contrast"}
    assert set(found.tuning["intervention"]) == {"contrast", "idle", "deaf"}


def test_changes_are_those_of_the_answers(found):
    row, results = found.table.iloc[0], found.results
    for condition in found.conditions:
        members = torch.tensor([item.condition == condition for item in results.items])
        right, base = (results.correct[run][members].double().mean() for run in ("contrast", BASE))
        assert row[condition] == pytest.approx(float(right - base))
        assert row[f"{condition}_low"] <= row[condition] <= row[f"{condition}_high"]


def test_it_is_tuned_on_other_clips_than_it_is_judged_on(found):
    tuned = {item.id for item in found.calibration.activations.items}
    assert not tuned & {item.id for item in found.results.items}


def test_untrained_kinds_of_question_are_left_out_and_told(found):
    kinds = found.kinds.set_index("kind")
    assert list(kinds.index[kinds["asked"]]) == ["what", "which"]
    assert {item.facts["kind"] for item in found.results.items} == {"what", "which"}
    assert kinds.loc["yes_no", "chance"] == 0.5


def test_the_page_shows_gains_costs_and_what_was_left_out(found):
    page = which_intervention_page([found], "lens-audio which-intervention")
    for said in (
        "contrast gains most in conflict",
        "left out: not trained on",
        "follows a false caption",
    ):
        assert said in page


def test_the_figure_has_a_row_a_run_and_hollow_controls(found):
    table = found.table
    control = table.assign(run="contrast random 1", is_control=True)
    import pandas as pd

    figure = intervention_effects(pd.concat([table, control]))
    assert [trace.name for trace in figure.data] == found.conditions
    assert list(figure.data[0].marker.symbol) == ["circle", "circle-open"]
    assert list(figure.data[-1].x) == [100 * table["conflict"].iloc[0]] * 2


def test_equal_mean_strength_is_equal_over_the_items_it_was_made_on(found):
    steering, items = found.calibration.steering, found.calibration.activations
    for adaptive in ("constant", "listening", "confidence"):
        scaled = at_equal_strength(steering, items, adaptive, 2.0)
        mean = scaled.beta * factors(steering, items, adaptive).double().mean()
        assert float(mean) == pytest.approx(2.0)
        assert scaled.adaptive == adaptive


def test_adaptive_strength_is_compared_with_constant_strength(found):
    constant = found.adaptive[found.adaptive["adaptive"] == "constant"]
    assert (constant["change"] == 0).all()
    assert set(found.adaptive["adaptive"]) == {"constant", "listening", "confidence"}


def test_attention_is_scaled_as_by_its_hooks(planted, found):
    item = found.results.items[0]
    prompt, heads = planted.prompt(item.question, audio=item.audio), [(2, 1), (5, 0)]
    with ScaledAttention(heads, 4.0).attach(planted) as attached:
        logits = attached(prompt)
    scaled = hooks.scale_attention(keys="audio", queries="last", factor=4.0, heads=heads)
    assert torch.equal(logits, planted.run_with_hooks(prompt, fwd_hooks=scaled))


def test_the_control_of_scaled_attention_is_in_as_many_other_heads(planted):
    heads = [(2, 1), (5, 0)]
    control = ScaledAttention(heads, 4.0).random_control(planted, 3)
    assert control.factor == 4.0
    assert len(set(control.heads) - set(heads)) == len(heads)
    assert control == ScaledAttention(heads, 4.0).random_control(planted, 3)
    assert ScaledAttention(None, 4.0).random_control(planted, 3) is None


def test_times_are_over_those_of_the_first_run(planted, found):
    item = found.results.items[0]
    prompt = planted.prompt(item.question, audio=item.audio)
    twice = partial(time_per_token, planted, prompt=prompt, n_tokens=2, rounds=2)
    times = twice({BASE: None, "aad": contrastive()})
    assert times[BASE][:3] == (1.0, 1.0, 1.0)
    assert times["aad"].value > 0


def test_a_median_ratio_is_that_of_the_pairs():
    found = median_ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
    assert found.value == 2.0
    assert (found.low, found.high, found.over) == (1.0, 3.0, "rounds")
