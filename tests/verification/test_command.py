"""`lens-audio verify`: what it prints and writes, and its exit status."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from checkpoint_folder import hub_names, write
from models import Sizes, hf_model
from qwen_audio_models import config_json, write_checkpoint
from typer.testing import CliRunner

from lens_audio.cli import app


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint, and one with another tensor."""
    found = []
    for factor in (1.0, 1.1):
        hf = hf_model(Sizes())
        with torch.no_grad():
            hf.model.audio_tower.layers[1].fc1.weight.mul_(factor)
        found.append(write(tmp_path_factory.mktemp("checkpoint"), hub_names(hf)))
    return found


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(
        app, ["verify", *map(str, arguments), "--device", "cpu", "--tokens", "3"]
    )


def written(name="lens-audio-verify.json"):
    def no_such_number(text):
        raise AssertionError(f"{text} is not JSON")

    return json.loads(Path(name).read_text(), parse_constant=no_such_number)


def test_agreement(folders):
    result = run(folders[0], "--output", "found.json")
    assert result.exit_code == 0, result.output
    assert "Agrees with transformers." in result.stdout
    assert "3 of 3 greedy tokens are the same" in result.stdout
    assert "audio_projector.hook_out" in result.stdout
    assert written("found.json")["verdict"] == "agrees"


@pytest.mark.long
def test_the_file_says_what_was_verified_and_no_path(folders):
    run(folders[0], "--dtype", "bfloat16")
    found = written()
    weights = (folders[0] / "model.safetensors").read_bytes()
    assert found["model"] == folders[0].name
    assert found["sha256"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert (found["device"], found["dtype"]) == ("cpu", "bfloat16")
    assert found["versions"].keys() == {"lens_audio", "torch", "transformers", "python"}
    assert found["sizes"]["n_layers"] == found["sizes"]["audio"]["n_layers"] == 2
    assert [prompt["name"] for prompt in found["prompts"]] == [
        *("one clip", "two clips", "a batch", "a full window")
    ]
    assert str(folders[0].parent) not in Path("lens-audio-verify.json").read_text()


def test_one_changed_tensor(folders):
    result = run(folders[1], "--against", folders[0])
    assert result.exit_code == 3, result.output
    place = "audio_encoder.blocks.1.hook_resid_post"
    assert f"DIFFERS from transformers, first at {place} (one clip)" in result.stdout
    found = written()
    assert (found["verdict"], found["first_difference"]["place"]) == ("differs", place)
    assert found["in_transformers"] == folders[0].name


def test_the_first_generation(tmp_path):
    folder = write_checkpoint(tmp_path, config_json())
    result = run(folder)
    assert result.exit_code == 4, result.output
    words = " ".join(result.stdout.split())
    assert "There is no reference: transformers has no QWenLMHeadModel" in words
    assert "are finite" in words
    assert written()["verdict"] == "no reference"


def test_what_cannot_load_is_one_line_and_no_file(folders, tmp_path_factory):
    bare = tmp_path_factory.mktemp("bare")
    (bare / "config.json").write_bytes((folders[0] / "config.json").read_bytes())
    result = run(bare)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: lens_audio cannot load {bare}: {bare} has no weights")
    assert result.stderr.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_a_file_that_cannot_be_written_is_refused_before_anything_loads():
    result = run("no such model", "--output", "no/such/file.json")
    assert result.exit_code == 1
    assert "there is no folder no/such" in result.stderr
