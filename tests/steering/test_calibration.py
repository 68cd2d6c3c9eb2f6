"""Calibration and report: their algebra is attached steering's, splits are apart, controls there."""

import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from lens_audio import stats, testbed
from lens_audio.analysis.dataset import chosen_answers, labelled
from lens_audio.cli import app
from lens_audio.stats import over_draws, paired_difference, wilson
from lens_audio.steering import AudioSilenceSteering, calibrate, report
from lens_audio.steering.audio_silence.item_activations import item_activations

HEADS = ((0, 1), (2, 3))


@pytest.fixture(scope="module")
def readings(model, items):
    return item_activations(model, items, batch_size=7, verbose=False)


@pytest.fixture(scope="module")
def calibration(model, items):
    settings = {"ks": (2, 4), "betas": (1, 4), "n_permutations": 20, "verbose": False}
    return calibrate(model, items, data="24 items", **settings)


@pytest.fixture(scope="module")
def tested(model, calibration):
    fresh = [
        i
        for number, caption in enumerate(("none", "false"))
        for i in labelled(testbed.make_items(4, 90 + number, caption=caption))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "N_RESAMPLES", 20)
        return report(model, calibration, fresh, n_draws=3, n_text_only=3, verbose=False)


@pytest.mark.parametrize("adaptive", ["constant", "listening", "confidence"])
@pytest.mark.parametrize("fixed", [False, True])
def test_algebra_on_readings_is_attached_steering(model, items, readings, adaptive, fixed) -> None:
    direction = readings.mean_direction(HEADS) if fixed else None
    steering = AudioSilenceSteering(HEADS, 4.0, adaptive, direction)
    some = items[-6:]
    prompt = model.prompt([i.question for i in some], audio=[i.audio for i in some])
    with steering.attach(model), torch.no_grad():
        expected = model(prompt, logits_to_keep=1)[:, 0]
        answers = chosen_answers(model, some, prompt)
    final = (readings.final + readings.steps(steering))[-6:]
    found = model.unembed(model.ln_final(final[:, None]))[:, 0]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    right = [item.answer == answer for item, answer in zip(some, answers, strict=True)]
    assert readings.correct(model, steering)[-6:].tolist() == right


def test_the_silent_side_is_the_silenced_prompt(model, items, readings) -> None:
    prompt = model.prompt(items[-1].question, audio=items[-1].audio).silenced()
    answer = chosen_answers(model, items[-1:], prompt)[0]
    assert items[-1].choices[int(readings.chosen_over_silence(model)[-1])] == answer


def test_calibration_tries_all_settings_and_marks_its_choice(calibration, items) -> None:
    table = calibration.table
    assert set(zip(table["k"], table["beta"], strict=True)) == {
        (k, beta) for k in (2, 4) for beta in (0.0, 1.0, 4.0)
    }
    chosen = table[table["chosen"]]
    assert len(chosen) == 3
    assert (chosen["k"] == len(calibration.steering.heads)).all()
    assert (chosen["beta"] == calibration.steering.beta).all()
    assert calibration.ids == [item.id for item in items]
    assert calibration.steering.provenance["data"]["what"] == "24 items"
    assert calibration.fixed.direction is not None


def test_report_has_every_control_in_every_condition(tested, calibration) -> None:
    methods = ["unsteered", "audio-silence", "fixed direction", "contrastive decoding",
               *tested.betas.keys() & {"other layers, after"}, "random heads"]  # fmt: skip
    for condition in ("captionless", "conflict"):
        rows = tested.table[tested.table["condition"] == condition]
        assert set(methods) | set(calibration.other_heads) == set(rows["method"])
        assert tested.row(condition, "unsteered")["change"] == 0
        assert tested.row(condition)["lead"] == 0
        assert (rows["accuracy_low"] <= rows["accuracy"]).all()
        assert (rows["accuracy"] <= rows["accuracy_high"]).all()
    assert len(tested.random_draws) == 3
    assert not any(set(d) & set(calibration.steering.heads) for d in tested.random_draws)
    assert not set(tested.test_ids) & set(calibration.ids)
    assert (tested.text_only_changed, tested.n_text_only) == (0, 3)
    assert set(tested.curves["method"]) == set(methods[1:])


def test_report_is_written_as_table_and_json(tested, tmp_path) -> None:
    tested.to_csv(tmp_path / "r.csv")
    assert len(pd.read_csv(tmp_path / "r.csv")) == len(tested.table)
    tested.to_json(tmp_path / "r.json")
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["text_only"] == {"changed": 0, "n": 3}
    assert len(facts["table"]) == len(tested.table)


def test_refuses_test_items_that_were_calibrated_on(model, calibration, items) -> None:
    with pytest.raises(ValueError, match="1 test items were calibrated on"):
        report(model, calibration, items[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": ()}, "at least one k"),
        ({"betas": ()}, "one beta"),
        ({"ks": (33,)}, "cannot take 33 heads"),
        ({"specialists_from": "shouted"}, "no items of condition 'shouted'"),
        ({"adaptive": "often"}, "adaptive"),
    ],
)
def test_refuses_bad_settings(model, items, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(model, items[-4:] + items[:4], n_permutations=5, verbose=False, **options)


def test_all_answers_wrong_is_a_clear_error(model, items, readings) -> None:
    wrong = [i for i, r in zip(items, readings.correct(model), strict=True) if not r]
    right = [i for i, r in zip(items, readings.correct(model), strict=True) if r]
    alike = max(wrong, right, key=len)[:6]
    with (
        pytest.warns(UserWarning, match="undefined"),
        pytest.raises(ValueError, match="no specialist heads to steer"),
    ):
        calibrate(model, alike, verbose=False)


def test_intervals() -> None:
    right = torch.tensor([True, True, False, True])
    assert wilson(right).value == 0.75
    draws = torch.stack([right, ~right])
    assert over_draws(draws).value == 0.5
    same = paired_difference(right, right)
    assert same[:3] == (0.0, 0.0, 0.0)
    against = paired_difference(draws, right)
    assert against.value == -0.25
    assert against.low < against.value < against.high
    assert paired_difference(draws, right) == against


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [*map(str, words)])


def test_command_heads_writes_a_table_and_a_page(ran, tmp_path) -> None:
    result = ran("heads", "-n", 8, "--k", 3)
    assert result.exit_code == 0, result.output
    assert "(within captions)" in " ".join(result.stdout.split())
    assert len(pd.read_csv(tmp_path / "lens-audio-heads.csv")) == 32
    page = (tmp_path / "lens-audio-heads.html").read_text()
    assert "Which heads listen?" in page
    assert "within caption conditions" in page
    assert "http-equiv" in page


def test_command_heads_takes_all_conditions_together_only_when_asked(ran, tmp_path) -> None:
    result = ran("heads", "-n", 8, "--k", 2, "--mixed", "--table", "t.json")
    assert result.exit_code == 0, result.output
    assert "conditions together" in " ".join(result.stdout.split())
    facts = json.loads((tmp_path / "t.json").read_text())
    assert facts["stratified"] is False
    significant = [[row["layer"], row["head"]] for row in facts["table"] if row["significant"]]
    assert sorted(facts["significant"]) == significant


def test_command_steer_reports_every_number(ran, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stats, "N_RESAMPLES", 20)
    words = ("--n-calibration", 8, "--n-test", 8, "--draws", 2, "--specialists-from", "all")
    result = ran("steer", "--report", *words, "--table", "t.json", "--save", "s.safetensors")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "t.json").read_text())
    said = " ".join(line["what"] for line in facts["numbers"])
    for number in ("AUROC", "drop by specialists", "conflict: change", "captionless: change",
                   "random heads (control)", "fixed direction (control)", "contrastive decoding",
                   "heads by mean mass", "baseline: the caption", "text-only"):  # fmt: skip
        assert number in said
    assert {"accuracy", "probability"} <= set(facts["knock_out"])
    assert {"layers", "baselines", "betas", "depends_on"} <= set(facts["report"])
    assert AudioSilenceSteering.load(tmp_path / "s.safetensors").heads
    page = (tmp_path / "lens-audio-steer.html").read_text()
    assert "Steering by each layer alone" in page
    assert "all but the specialists" in page
    result = ran("steer", "--calibrate", *words)
    assert result.exit_code == 0, result.output
    assert "accuracy" in pd.read_csv(tmp_path / "lens-audio-steer.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("heads", "--table", "t.txt"), "must end in .csv or .json"),
        (("heads", "--out", "missing/x.html"), "no folder"),
        (("heads", "--table", "t.csv", "--out", "t.csv"), "are both t.csv"),
        (("steer", "--calibrate", "--report"), "--report calibrates too"),
        (("steer", "--model", "nowhere/at/all"), "nowhere"),
    ],
)
def test_commands_say_what_is_wrong(ran, words, message) -> None:
    result = ran(*words)
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
