"""Parts of recordings, and what is said before an answer is believed."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from lens_audio import HookedAudioTransformer, testbed
from lens_audio.cli import app, cautions
from lens_audio.cli.checkpoint import CheckpointFiles
from lens_audio.cli.recording import read_excerpt

torch.set_num_threads(1)
RATE = 16000


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Eight seconds of noise, in `long.wav`."""
    monkeypatch.chdir(tmp_path)
    wave = np.random.default_rng(0).uniform(-0.2, 0.2, 8 * RATE).astype(np.float32)
    soundfile.write("long.wav", wave, RATE, subtype="FLOAT")
    return wave


def run(line: str) -> Result:
    return CliRunner().invoke(app, line.split())


@pytest.mark.parametrize(
    ("start", "end", "at_most", "samples", "said"),
    [
        (1.0, 3.0, None, slice(RATE, 3 * RATE), "1.00 to 3.00 of 8.00 s"),
        (None, 2.5, None, slice(0, 40000), "first 2.50 of 8.00 s"),
        (7.0, None, None, slice(7 * RATE, None), "7.00 to 8.00 of 8.00 s"),
        (2.0, None, 4.0, slice(2 * RATE, 6 * RATE), "2.00 to 6.00 of 8.00 s"),
    ],
)
def test_a_part_is_the_samples_between_two_moments(
    long: np.ndarray, start: float, end: float, at_most: float, samples: slice, said: str
) -> None:
    found = read_excerpt(Path("long.wav"), CheckpointFiles.read(None), start, end, at_most)
    np.testing.assert_array_equal(found.samples, long[samples])
    assert found.said == said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("listen long.wav", "--start and --end (in seconds) choose any part"),
        ("listen long.wav --start 1", "lasts 7.00 s from --start to its end"),
        ("listen long.wav --start 1 --end 6", "the model hears at most 4 s"),
        ("listen long.wav --start 9", "long.wav lasts 8.000 s"),
        ("patch long.wav long.wav --start 9", "long.wav lasts 8.000 s"),
    ],
)
def test_parts_that_cannot_be_are_told_in_options_before_the_model_is_loaded(
    long: np.ndarray, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(HookedAudioTransformer, "from_pretrained", load)
    result = run(line)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "samples[" not in result.stderr


@pytest.mark.parametrize("command", ["listen", "patch"])
def test_a_part_that_ends_before_it_begins_is_wrong_usage(command: str) -> None:
    result = run(f"{command} --start 2 --end 1")
    assert result.exit_code == 2
    assert "--end" in result.stderr


def test_listen_says_what_it_heard_and_what_to_doubt_before_any_bar(long: np.ndarray) -> None:
    result = run("listen long.wav --start 1 --end 3 --choices xylophone,zebra --table out.json")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    page = Path("lens-audio-listen.html").read_text().split("<body>")[1]
    facts = json.loads(Path("out.json").read_text())
    assert facts["mass_on_the_choices"]["with_sound"] < 0.1
    assert facts["heard"] == "1.00 to 3.00 of 8.00 s"
    assert len(facts["cautions"]) == 3
    for words in ("knows 16 synthetic sounds", "none of the choices", "choices together have a"):
        assert any(words in caution for caution in facts["cautions"])
        assert said.index(words) < said.index("xylophone │")
        assert page.index(words) < page.index('id="answers"')
    assert "1.00 to 3.00 of 8.00 s" in said
    assert "1.00 to 3.00 of 8.00 s" in page


def test_the_bundled_recording_needs_no_caution() -> None:
    assert cautions.of_model(None, has_own_recording=False) == []
    assert cautions.of_answer("A Dog.", ["dog", "cat"]) == []
    assert cautions.of_answer("hot dogs", ["dog", "cat"])
    assert cautions.of_mass(0.1) == []


def test_the_mass_is_the_sum_of_the_choices_probabilities() -> None:
    probs, mass = cautions.probs_and_mass(torch.tensor([[0.02, 0.06]]).log())
    assert (probs, mass) == (pytest.approx([0.25, 0.75]), pytest.approx(0.08))
    assert cautions.probs_and_mass(torch.tensor([[-88.0, -88.0]]))[1] == pytest.approx(
        2 * np.exp(-88.0)
    )
    assert testbed.checkpoint_dir().is_dir()


def test_the_version_is_told() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "lens-audio")
