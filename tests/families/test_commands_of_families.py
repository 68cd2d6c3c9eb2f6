"""Every command runs on a folder of every family."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import soundfile
from family_processors import PROCESSORS, either_way_with_long_clips, talking_hf_model
from typer.testing import CliRunner

from lens_audio.cli import app

OTHERS = [n for n in PROCESSORS if n != "Qwen2-Audio"]
families = pytest.mark.parametrize("name", OTHERS)
two_families = pytest.mark.parametrize("name", either_way_with_long_clips(OTHERS))


@cache
def folder_of(name):
    folder = Path(mkdtemp())
    hf_model, processor = talking_hf_model(name)
    hf_model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32 * 16000)
    soundfile.write("long.wav", noise, 16000)
    soundfile.write("short.wav", noise[: 2 * 16000], 16000)


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@families
def test_listen_to_more_than_a_window(name):
    said = run("listen", "long.wav", "--question", "What?", "--model", folder_of(name))
    assert "32.00 s" in said
    assert "<html" in Path("lens-audio-listen.html").read_text()


@two_families
def test_patch(name):
    command = ["patch", "short.wav", "--question", "What?", "--model", folder_of(name)]
    run(*command, "--by", "window", "--window", 0.5, "--answer", "horn", "--instead", "knock")
    assert Path("lens-audio-patch.html").exists()


@two_families
def test_heads(name):
    run("heads", "--model", folder_of(name), "--items", 8, "--k", 2)
    assert Path("lens-audio-heads.html").exists()


@pytest.mark.long
@families
def test_steer(name):
    run("steer", "--model", folder_of(name), "--n-calibration", 16, "--n-test", 8, "--draws", 2)
    assert Path("lens-audio-steer.html").exists()


@pytest.mark.long
@families
def test_mmau(name):
    command = [
        "mmau",
        "--dataset",
        "testbed",
        "-n",
        16,
        "--model",
        folder_of(name),
        "--out",
        "mmau",
    ]
    run(*command, "--answer-by", "log-probability")
    assert list(Path("mmau").glob("*.html"))
