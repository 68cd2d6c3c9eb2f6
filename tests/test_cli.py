"""`lens-audio listen`, on a random tiny checkpoint, on the embedded one, and on bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from lens_audio import testbed
from lens_audio.cli import app
from lens_audio.testbed.processor import build_processor
from lens_audio.testbed.train import build_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    processor = build_processor()
    build_model(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


def listen(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["listen", *map(str, arguments)])


def assert_refused(result: Result, message: str, status: int = 1) -> None:
    assert result.exit_code == status, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    if status == 1:
        assert result.stderr.count("\n") == 1
        assert not result.stdout
    assert list(Path.cwd().iterdir()) == []


def test_without_arguments_the_embedded_model_hears_the_bundled_sound() -> None:
    result = listen()
    assert result.exit_code == 0, result.output
    item = testbed.demo_item()
    assert re.search(rf"Answer +{item.answer}\n", result.stdout)
    assert f"{item.answer}: the answer agrees" in result.stdout
    page = Path("lens-audio-listen.html").read_text()
    assert "It agrees with the answer key" in page
    assert all(f'id="{name}"' in page for name in ("answers", "time", "heads"))
    assert "<audio controls" in page
    assert "the embedded checkpoint" in page


def test_the_strongest_head_looks_at_the_bundled_sound() -> None:
    result = listen("--top", 1)
    item = testbed.demo_item()
    seconds = float(re.search(r"│ L\d+H\d+ │.*│ +([\d.]+) s │", result.stdout)[1])
    assert item.onset - 0.04 <= seconds <= item.offset + 0.04


def test_a_question_without_choices_shows_the_likeliest_tokens(tiny: Path, sound: Path) -> None:
    result = listen(sound, "--model", tiny, "--question", "Who?", "--out", "page.html")
    assert result.exit_code == 0, result.output
    assert "next token" in result.stdout
    assert "agree" not in result.stdout
    page = Path("page.html").read_text()
    assert "next-token probability" in page
    assert tiny.name in page
    assert str(tiny.parent) not in page
    assert str(sound.parent) not in page


def test_choices_are_appended_to_a_question_that_does_not_name_them(
    tiny: Path, sound: Path
) -> None:
    result = listen(sound, "--model", tiny, "--choices", "dog, a long bell")
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "What do you hear? Please choose the answer from the following options: ['dog'" in words
    probabilities = re.findall(r"│ (?:dog|a long bell) +│ +([\d.]+)% │ +([\d.]+)% │", result.stdout)
    for column in zip(*probabilities, strict=True):
        assert sum(map(float, column)) == pytest.approx(100, abs=0.2)


def test_hostile_names_and_questions_stay_text(tiny: Path, sound: Path) -> None:
    hostile = sound.rename(sound.with_name("<img src=x onerror=alert(1)>.wav"))
    question = "</script><script>alert(1)</script>[bold]?"
    result = listen(
        hostile, "--model", tiny, "--question", question, "--choices", "<b>x</b>,</script>"
    )
    assert result.exit_code == 0, result.output
    assert "[bold]" in result.stdout
    page = Path("lens-audio-listen.html").read_text()
    assert "<img" not in page.split("</head>")[1]
    assert "<script>alert" not in page
    assert "<b>x" not in page


def test_dtype_and_max_seconds(tiny: Path, sound: Path) -> None:
    result = listen(
        sound, "--model", tiny, "--dtype", "bfloat16", "--max-seconds", 0.5, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "(first 0.50 of 1.00 s)" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no audio file"),
        (b"", "empty file"),
        (b"RIFF but not really", "cannot be read as audio"),
    ],
)
def test_files_that_are_no_sound(
    tiny: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "bad.wav"
    if content is not None:
        path.write_bytes(content)
    assert_refused(listen(path, "--model", tiny), message)


def test_a_truncated_file(tiny: Path, sound: Path) -> None:
    sound.write_bytes(sound.read_bytes()[:2000])
    assert_refused(listen(sound, "--model", tiny), "truncated")


def test_a_recording_too_long_says_how_to_cut_it(tiny: Path, sound: Path) -> None:
    soundfile.write(sound, np.zeros(16000 * 5), 16000)
    assert_refused(listen(sound, "--model", tiny), "--max-seconds 4")


def test_bad_models(tiny: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(listen("--model", empty), "no config.json")
    (empty / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert_refused(listen("--model", empty), "llama")
    assert_refused(listen("--model", "../no such folder"), "neither a folder nor")


def test_a_device_that_does_not_exist(tiny: Path) -> None:
    assert_refused(listen("--model", tiny, "--device", "cuda:77"), "no device 'cuda:77'")


def test_more_heads_than_there_are(tiny: Path) -> None:
    assert_refused(listen("--model", tiny, "--top", 33), "4 layers x 8 heads = 32")


def test_a_page_that_cannot_be_written_is_refused_before_the_model_loads() -> None:
    nowhere = ("--out", "no/such/page.html", "--model", "no such model")
    assert_refused(listen(*nowhere), "there is no folder no/such")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--top", "0"),
        ("--dtype", "int8"),
        ("--choices", "dog"),
        ("--choices", "dog,"),
        ("--choices", "dog,dog"),
        ("--question", " "),
        ("--nonsense",),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    assert_refused(listen(*arguments), arguments[0].lstrip("-"), status=2)


def test_debug_shows_the_traceback(tiny: Path) -> None:
    result = listen("no.wav", "--model", tiny, "--debug")
    assert isinstance(result.exception, FileNotFoundError)
