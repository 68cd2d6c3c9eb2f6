"""Every command runs on a folder of the first generation."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from qwen_audio_models import write_talking_checkpoint
from typer.testing import CliRunner

from lens_audio.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_talking_checkpoint(tmp_path_factory.mktemp("v1"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("chat_format", ["chatml", "raw"])
def test_listen(tmp_path, chat_format):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_talking_checkpoint(folder, chat_format)
    soundfile.write("a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    assert "strongest heads" in run("listen", "a.wav", "--question", "a?", "--model", folder)
    assert "<html" in Path("lens-audio-listen.html").read_text()


def test_heads(folder):
    run("heads", "--model", folder, "--items", 8, "--k", 2)
    command = f"lens-audio heads --k 2 --items 8 --seed 1001 --model {folder.name} "
    assert command in Path("lens-audio-heads.html").read_text()


def test_patch(folder):
    run("patch", "--model", folder, "--by", "window", "--answer", "horn", "--instead", "knock")
    assert Path("lens-audio-patch.html").exists()


def test_steer(folder):
    run("steer", "--model", folder, "--n-calibration", 8, "--n-test", 8, "--draws", 2)
    assert f" --model {folder.name} " in Path("lens-audio-steer.html").read_text()


def test_a_recording_too_long_is_refused(folder):
    soundfile.write("a.wav", np.zeros(5 * 16000), 16000)
    result = CliRunner().invoke(
        app, ["listen", "a.wav", "--question", "a?", "--model", str(folder)]
    )
    assert result.exit_code == 1
    assert "max" in result.stderr
    assert "Traceback" not in result.output
