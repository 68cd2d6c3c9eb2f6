"""`lens-audio mmau` on the testbed, on MMAU's layout, and on bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from lens_audio.cli import app
from lens_audio.tables import read_table

torch.set_num_threads(1)
QUICK = ("--dataset", "testbed", "-n", 6, "--ks", "2", "--betas", "2", "--draws", 1, "--workers", 0,
         "--max-new-tokens", 3, "--device", "cpu")  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Two questions in the official layout, and one recording."""
    rows = [
        {"id": name, "audio_id": f"{name}.wav", "question": "What?", "choices": ["bell", "dog"],
         "answer": "bell", "task": "sound", "difficulty": "easy", "split": "test-mini",
         "category": "=1+1"}
        for name in ("a", "b")
    ]  # fmt: skip
    (tmp_path / "mmau.json").write_text(json.dumps(rows))
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).normal(size=16000), 16000)
    return tmp_path / "mmau.json"


def mmau(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mmau", *map(str, arguments)])


def assert_refused(result: Result, message: str, status: int = 1) -> None:
    assert result.exit_code == status, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert list(Path.cwd().iterdir()) == []


def test_one_command_calibrates_and_reports_on_every_run() -> None:
    result = mmau(*QUICK)
    assert result.exit_code == 0, result.output
    for run in ("base", "steered", "random 1", "fixed", "silenced"):
        assert run in result.stdout
    names = {path.name for path in Path("lens-audio-mmau").iterdir()}
    assert {
        "journal.jsonl", "answers.jsonl", "results.json", "accuracy.csv", "comparison.csv",
        "report.html", "steering.safetensors", "predictions-base.json", "predictions-random-1.json",
    } <= names  # fmt: skip
    page = Path("lens-audio-mmau/report.html").read_text()
    assert "arXiv 2603.06854" in page
    assert "+8.0" in page
    assert "lens-audio mmau --dataset testbed" in page
    assert str(Path.cwd()) not in page


def test_steering_calibrated_before_is_used_on_all_items() -> None:
    assert mmau(*QUICK, "--out", "first").exit_code == 0
    result = mmau(*QUICK, "--out", "second", "--steering", "first/steering.safetensors",
                  "--runs", "base,steered")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(Path("second/results.json").read_text())["n_test"] == 18


def test_missing_recordings_are_listed_or_skipped(questions: Path) -> None:
    assert_refused(mmau(questions), "1 of 2 recordings are missing: b.wav")
    result = mmau(questions, "--skip-missing", "--runs", "base", "--max-new-tokens", 2)
    assert result.exit_code == 0, result.output
    assert "MMAU test-mini (first)" in result.stdout
    table = Path("lens-audio-mmau/accuracy.csv")
    assert "base,category,'=1+1," in table.read_text()
    assert "=1+1" in set(read_table(table)["value"])


def test_items_are_chosen_by_task_difficulty_and_number(questions: Path) -> None:
    result = mmau(questions, "--limit", 1, "--task", "sound", "--difficulty", "easy", "--runs",
                  "base", "--benchmark-version", "v05.15.25", "--max-new-tokens", 2)  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("lens-audio-mmau/results.json").read_text())
    assert (facts["n_test"], facts["benchmark"]["version"]) == (1, "v05.15.25")
    other = mmau(questions, "--task", "speech")
    assert "no item has task 'speech'; there are sound" in other.stderr


def test_a_changed_prompt_refuses_to_go_on(tmp_path: Path) -> None:
    assert mmau(*QUICK, "--out", tmp_path / "run").exit_code == 0
    (tmp_path / "mine.txt").write_text("{question} {choices}")
    for more in (("--prompt", "brief"), ("--prompt", tmp_path / "mine.txt")):
        result = mmau(*QUICK, "--out", tmp_path / "run", *more)
        assert_refused(result, "settings wording name was 'plain' and is")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give MMAU's JSON file"),
        (("no.json",), "there is no file no.json"),
        (("no.parquet",), "no parquet file"),
        ((*QUICK, "--runs", "steered"), "runs must be base"),
        ((*QUICK, "--prompt", "nonsense"), "no prompt is called 'nonsense'"),
        ((*QUICK, "--ks", "x"), "give numbers above 0"),
        ((*QUICK, "--device-map", "auto"), "--device-map spreads the model of a single process"),
    ],
)
def test_wrong_requests(arguments: tuple[object, ...], message: str) -> None:
    result = mmau(*arguments, *(("--out", "../out") if arguments else ()))
    assert_refused(result, message)


@pytest.mark.parametrize(
    "arguments", [("--answer-by", "x"), ("--limit", 0), ("--dataset", "y"), ("--adaptive", "z")]
)
def test_wrong_usage_is_status_2(arguments: tuple[object, ...]) -> None:
    assert_refused(mmau(*arguments), "Invalid value", status=2)
