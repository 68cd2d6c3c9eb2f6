"""The attack stays in its bound and moves its target; readings and shares are what they say."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lens_audio as la
from lens_audio.analysis import listening, metrics
from lens_audio.analysis.perturbation import (
    Signals,
    attack,
    bound,
    objective,
    random_like,
    rms,
    signals,
    within,
)
from lens_audio.analysis.robustness import (
    NOISE,
    RANDOM,
    UNPERTURBED,
    Robustness,
    ScoreAndAnswer,
    attack_on,
    measure,
)
from lens_audio.data.answers import first_tokens
from lens_audio.inputs.log_mel import original_waveforms, with_waveforms

HEADS = la.testbed.truth("emergent").readers
DB = st.floats(-30, 120, allow_nan=False)


@pytest.fixture(scope="module")
def model():
    folder = la.testbed.checkpoint_dir("emergent")
    return la.HookedAudioTransformer.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def items():
    return la.testbed.make_scene_items(4, seed=21)


def prompt_of(model, items):
    clips = [item.audio for item in items]
    return model.prompt([item.question for item in items], audio=clips)


def attacked(model, items, level=40.0, target="score", **options):
    tokens = first_tokens(model, items)
    return attack(model, prompt_of(model, items), HEADS, tokens, level, target, **options)


@pytest.fixture(scope="module")
def found(model, items):
    """By target: the attack and its control, and noise beside the first."""
    return {
        target: measure(
            model, items, HEADS, noise_db=levels, attack_db=[20], target=target, steps=3, seed=3,
            batch_size=3, verbose=False,
        )
        for target, levels in (("score", [120, 0]), ("answer", []))
    }  # fmt: skip


@given(level=DB, seed=st.integers(0, 99), size=st.floats(1e-3, 1e3))
def test_the_projection_stays_in_the_bound_and_keeps_the_direction(level, seed, size):
    rng = torch.Generator().manual_seed(seed)
    wave, delta = torch.randn(2, 300, generator=rng)
    delta = size * delta
    most = bound(wave, level)
    assert most == pytest.approx(float(rms(wave)) * 10 ** (-level / 20))
    projected = within(delta, most)
    assert float(rms(projected)) == pytest.approx(min(most, float(rms(delta))), rel=1e-5)
    torch.testing.assert_close(projected / rms(projected), delta / rms(delta), atol=1e-5, rtol=1e-4)


@settings(max_examples=3)
@given(level=DB)
def test_the_attack_stays_in_the_bound(model, items, level):
    deltas = attacked(model, items[:1], level, steps=1)
    wave = torch.from_numpy(items[0].waveform)
    assert float(rms(deltas[0])) <= bound(wave, level) * (1 + 1e-5)


def test_the_objective_is_the_formula():
    first = Signals(torch.tensor([0.4]), torch.tensor([[1.0, 3.0, 0.0]]))  # prefers choice 1
    now = Signals(torch.tensor([0.3]), torch.tensor([[2.0, 2.5, -torch.inf]]))  # by 0.5
    assert float(objective(now, first, "score", 2.0, 1.0)) == pytest.approx(0.3 / 0.4 + 2 * 0.5)
    assert float(objective(now, first, "score", 2.0, 0.2)) == pytest.approx(0.3 / 0.4)
    assert float(objective(now, first, "answer", 2.0, 1.0)) == pytest.approx(1.5 + 2 * 0.25)
    turned = Signals(now.score, torch.tensor([[4.0, 2.5, 0.0]]))
    assert float(objective(turned, first, "answer", 2.0, 1.0)) == pytest.approx(2 * 0.25)


def test_items_of_a_batch_are_attacked_as_alone(model, items):
    together = attacked(model, items[:2], steps=1)
    for item, expected in zip(items[:2], together, strict=True):
        (alone,) = attacked(model, [item], steps=1)
        assert float(rms(alone)) > 0
        torch.testing.assert_close(alone, expected, atol=1e-7, rtol=1e-2)


def test_no_item_ends_worse_than_it_began(model, items):
    tokens, prompt = first_tokens(model, items[:2]), prompt_of(model, items[:2])
    waves = original_waveforms(prompt)
    deltas = attacked(model, items[:2], level=0.0, steps=1)  # one step, and far too long
    with torch.no_grad():
        first = signals(model, prompt, HEADS, tokens)
        moved = [wave + delta for wave, delta in zip(waves, deltas, strict=True)]
        now = signals(model, with_waveforms(prompt, moved), HEADS, tokens)
    began, ended = (objective(one, first, "score", 1.0, 1.0) for one in (first, now))
    assert (ended <= began + 1e-4).all()


def test_the_control_is_as_large_as_the_attack():
    moved = [torch.tensor([0.0, 0.3, -0.4]), torch.zeros(5)]
    drawn = random_like(moved, 0)
    assert float(rms(drawn[0])) == pytest.approx(float(rms(moved[0])))
    assert not torch.allclose(drawn[0], moved[0])
    assert torch.equal(drawn[1], moved[1])


def test_the_unperturbed_reading_is_that_of_the_listening_score(model, items, found):
    reading = found["score"].unperturbed
    measured = listening.measure(model, items, verbose=False)
    expected = listening.listening_score(measured.mass, HEADS)
    torch.testing.assert_close(reading.score, expected, atol=1e-5, rtol=0)
    assert torch.equal(reading.choice == found["score"].right, measured.correct)
    for number, item in enumerate(items):
        right = model.to_single_token(item.answer)
        wrong = [model.to_single_token(c) for c in item.choices if c != item.answer]
        logits = model(prompt_of(model, [item]), logits_to_keep=1)[:, -1]
        by_hand = metrics.logit_diff(right, [wrong])(logits)
        assert float(reading.logit_diff[number]) == pytest.approx(by_hand.item(), abs=1e-3)


def test_noise_far_below_the_signal_changes_nothing(found):
    first, faint = found["score"].unperturbed, found["score"].perturbed[NOISE, 120.0]
    loud = found["score"].perturbed[NOISE, 0.0]
    torch.testing.assert_close(faint.logit_diff, first.logit_diff, atol=0.02, rtol=0)
    torch.testing.assert_close(faint.score, first.score, atol=1e-3, rtol=0)
    assert float((loud.logit_diff - first.logit_diff).abs().mean()) > 0.1


def test_an_attack_on_the_score_lowers_it_more_than_its_control(found):
    perturbed = found["score"].perturbed
    attack, control = perturbed[attack_on("score"), 20.0], perturbed[RANDOM, 20.0]
    assert float(attack.score.mean()) < float(control.score.mean()) - 0.01


def test_an_attack_on_the_answer_moves_it_more_than_its_control(found):
    perturbed, first = found["answer"].perturbed, found["answer"].unperturbed
    attack, control = perturbed[attack_on("answer"), 20.0], perturbed[RANDOM, 20.0]
    changed = (attack.choice != first.choice).sum()
    assert changed >= 2 + (control.choice != first.choice).sum()


def test_the_same_seed_gives_the_same_readings(model, items):
    options = {"noise_db": [10], "attack_db": [30], "steps": 1, "verbose": False}
    one, same, other = (
        measure(model, items[:2], HEADS, seed=seed, **options).to_dataframe() for seed in (1, 1, 2)
    )
    assert one.equals(same)
    changed = (one["score"] != other["score"]).tolist()
    assert changed == [False, True, False, True]  # the attack itself draws nothing


def made_up():
    first = ScoreAndAnswer(torch.tensor([0.4, 0.8]), torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    then = ScoreAndAnswer(torch.tensor([0.2, 0.7]), torch.tensor([0.0, 1.0]), torch.tensor([0, 2]))
    return Robustness(
        [(0, 0)], "score", ["a", "b"], torch.tensor([0, 2]), first, {("x", 5.0): then}, 0
    )


def test_the_table_has_means_and_shares_over_items():
    first, then = made_up().to_dataframe().to_dict("records")
    assert (first["what"], first["level_db"], first["n"]) == (UNPERTURBED, math.inf, 2)
    assert (then["what"], then["level_db"]) == ("x", 5.0)
    assert then["score"] == pytest.approx(0.45)
    assert then["score_change"] == pytest.approx(-0.15)
    assert then["logit_diff"] == pytest.approx(0.5)
    assert (first["accuracy"], then["accuracy"], then["kept"]) == (0.5, 1.0, 0.5)
    for name in ("score", "score_change", "logit_diff", "accuracy", "kept", "reached"):
        assert then[f"{name}_low"] <= then[name] <= then[f"{name}_high"]


def test_the_target_is_reached_where_it_alone_moved():
    result = made_up()
    (then,) = result.perturbed.values()
    assert result.reached(then).tolist() == [True, False]
    assert replace(result, target="answer").reached(then).tolist() == [False, True]
    assert not result.reached(result.unperturbed).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise_db": [math.inf]}, "finite"),
        ({"attack_db": [math.nan]}, "finite"),
        ({}, "no levels"),
        ({"attack_db": [20], "target": "loudness"}, "target 'loudness'"),
        ({"attack_db": [20], "steps": 0}, "at least 1 step"),
        ({"attack_db": [20], "penalty": -1.0}, "0 or more"),
        ({"noise_db": [20], "heads": [(99, 0)]}, "99"),
        ({"noise_db": [20], "heads": []}, "head"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, items, options, said):
    options = {"heads": HEADS, **options}
    with pytest.raises(ValueError, match=said):
        measure(model, items, options.pop("heads"), verbose=False, **options)


def test_items_without_a_recording_are_refused(model, items):
    silent = la.data.AudioQAItem("x", items[0].question, items[0].choices, items[0].answer)
    with pytest.raises(ValueError, match="no recording"):
        measure(model, [*items, silent], HEADS, noise_db=[10])
    prompt = model.prompt([silent.question, items[0].question], audio=[None, items[0].audio])
    with pytest.raises(ValueError, match="no audio"):
        attack(model, prompt, HEADS, first_tokens(model, [silent, items[0]]), 20)


def test_a_silent_clip_is_refused(model, items):
    quiet = replace_audio(items[0])
    with pytest.raises(ValueError, match="silent"):
        measure(model, [quiet, items[1]], HEADS, attack_db=[10], verbose=False)


def replace_audio(item):
    silence = (0 * item.waveform, item.sampling_rate)
    return la.data.AudioQAItem("quiet", item.question, item.choices, item.answer, silence)


def test_a_prompt_made_from_tensors_is_refused(model, items):
    prompt = replace(prompt_of(model, items[:1]), waveforms=None)
    with pytest.raises(ValueError, match="made from tensors"):
        attack(model, prompt, HEADS, first_tokens(model, items[:1]), 20)


def test_hooks_on_the_model_are_refused(model, items):
    with (
        model.hooks([("hook_embed", lambda value, hook: None)]),
        pytest.raises(ValueError, match="hooks are set"),
    ):
        measure(model, items, HEADS, noise_db=[10])


def test_the_figure_shows_the_table(found):
    table = found["score"].to_dataframe()
    lines = [trace for trace in found["score"].plot().data if trace.name]
    assert [line.name for line in lines[:3]] == [NOISE, attack_on("score"), RANDOM]
    noise = table[table["what"] == NOISE]
    assert list(lines[0].x) == [120.0, 0.0]
    assert list(lines[0].y) == noise["score"].tolist()
