"""`lens-audio eval`: runs named on the command line, and what is refused before a model is loaded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import lens_audio as la
from lens_audio.cli import app
from lens_audio.cli.run_options import KINDS, RunOption

SHORT = ["--max-new-tokens", "3", "--workers", "0", "--device", "cpu"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_runs_of_every_kind_in_one_command_and_the_same_again(tmp_path):
    vector, steering = tmp_path / "vector.safetensors", tmp_path / "steering.safetensors"
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")
    la.steering.SteeringVector.supplied(model.W_U[:, 0].detach().clone(), 3).save(vector)
    la.steering.AudioSilenceSteering(heads=((1, 0),), beta=1.0).save(steering)
    command = [
        "testbed", "-n", "2", "--only", "condition=conflict", *SHORT, "--out", tmp_path / "out",
        "--run", "deaf=knock-out:layers=1-3", "--run", "louder=scale:factor=2,heads=L1H0+L2H3",
        "--run", "aad=contrastive:alpha=1,against=noise", "--run", f"{vector}:strength=0.5",
        "--run", f"steered={steering}", "--run", "silenced", "--run", "zero=ablate:site=mlp_out,layers=0",
    ]  # fmt: skip
    first = invoke(*command)
    assert first.exit_code == 0, first.output
    written = (tmp_path / "out" / "results.json").read_text()
    facts = json.loads(written)
    assert list(facts["runs"]) == [
        "base", "deaf", "louder", "aad", "vector", "vector random 1", "steered",
        "steered random 1", "silenced", "zero",
    ]  # fmt: skip
    assert len(facts["runs"]["deaf"]["hooks"]) == 3
    assert invoke(*command).exit_code == 0
    assert (tmp_path / "out" / "results.json").read_text() == written


def test_another_strength_is_refused(tmp_path):
    command = ["testbed", "-n", "2", "--limit", "2", *SHORT, "--out", tmp_path, "--run"]
    assert invoke(*command, "a=contrastive:alpha=1").exit_code == 0
    other = invoke(*command, "a=contrastive:alpha=2")
    assert other.exit_code == 1
    assert "runs a alpha was 1 and is 2" in other.output


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("a=nothing", "there is no kind 'nothing'; there are silenced"),
        ("a=", "give NAME=KIND"),
        ("a=scale:factr=2", "no option 'factr=2'; scale has factor"),
        ("a=scale:factor=two", "'two' is no number"),
        ("a=knock-out:layers=5-2", "end before they begin"),
        ("a=knock-out:heads=3", "heads are L2H1"),
        ("a=none.safetensors", "there is no file of steering"),
        ("a=noise:seed=1.5", "no whole number"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, run, said):
    result = invoke("testbed", "--out", tmp_path, "--run", run)
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mmar"], "give the file of mmar"),
        (["testbed", "x.json"], "leave x.json out"),
        (["testbed", "--run", "silenced", "--run", "silenced"], "two runs are called 'silenced'"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, arguments, said):
    result = invoke(*arguments, "--out", tmp_path)
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())


def test_only_takes_facts_of_the_items(tmp_path):
    result = invoke("testbed", "-n", "2", "--only", "colour=red", *SHORT, "--out", tmp_path)
    assert result.exit_code == 1
    assert "--only 'colour=red': give NAME=VALUE of condition, category" in result.output


@given(st.text())
def test_any_text_is_a_run_or_refused_with_a_reason(text):
    try:
        option = RunOption.read(text)
    except (OSError, ValueError):
        return
    assert option.kind in KINDS
