"""`lens-audio patch`, on the embedded checkpoint and on bad input."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from lens_audio import testbed
from lens_audio.cli import app
from lens_audio.tables import read_table

torch.set_num_threads(1)

PAGE, TABLE = Path("lens-audio-patch.html"), Path("lens-audio-patch.csv")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled clip, and noise of the same length."""
    wave, rate = soundfile.read(testbed.demo_clip())
    noise = tmp_path_factory.mktemp("sounds") / "noise.wav"
    soundfile.write(noise, np.random.default_rng(0).uniform(-0.2, 0.2, len(wave)), rate)
    return testbed.demo_clip(), noise


def patch(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["patch", *map(str, arguments)])


def assert_refused(result: Result, message: str, status: int = 1) -> None:
    assert result.exit_code == status, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    if status == 1:
        assert result.stderr.count("\n") == 1
        assert not result.stdout
    assert list(Path.cwd().iterdir()) == []


def test_without_arguments_the_moment_of_the_sound_carries_the_answer() -> None:
    result = patch()
    assert result.exit_code == 0, result.output
    clean = testbed.demo_item()
    assert re.search(rf"Clean .*\n +answer: {clean.answer}\n", result.stdout)
    cells = pd.read_csv(TABLE)
    assert set(cells["by"]) == {"window", "head"}
    windows = cells[cells["by"] == "window"]
    best = windows.loc[windows["recovery"].idxmax()]
    start, end = re.fullmatch(r"([\d.]+)-([\d.]+) s", best["position"]).groups()
    assert float(start) < clean.offset
    assert float(end) > clean.onset
    assert best["recovery"] > 0.2
    assert best["layer"] == 0
    np.testing.assert_allclose(
        cells["recovery"],
        (cells["value"] - cells["base"]) / (cells["source"] - cells["base"]),
        atol=1e-4,
    )
    page = PAGE.read_text()
    assert page.count("<audio controls") == 2
    assert all(f'id="{name}"' in page for name in ("answers", "sweep-0", "sweep-1"))
    assert page.count('data-time="1"') == 1


def test_noising_swaps_the_runs_and_json_tells_all() -> None:
    result = patch("--direction", "noise", "--by", "group", "--table", "cells.json")
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("cells.json").read_text())
    assert facts["direction"] == "noise"
    assert (
        facts["metric"]
        == f"logit({facts['clean']['answer']}) - logit({facts['corrupted']['answer']})"
    )
    cells = {(cell["layer"], cell["position"]): cell for cell in facts["cells"]}
    assert cells[0, "audio"]["base"] > 0 > cells[0, "audio"]["source"]
    assert cells[0, "audio"]["recovery"] == pytest.approx(1, abs=1e-3)
    assert cells[0, "last"]["recovery"] == pytest.approx(0, abs=1e-3)
    assert cells[0, "audio"]["head"] is None


@pytest.mark.parametrize("corruption", ["silence", "noise:-10", "shuffle"])
def test_a_recording_against_its_corruption(corruption: str, sounds: tuple[Path, Path]) -> None:
    options = ("--choices", "glass,knock", "--answer", "glass", "--instead", "knock")
    result = patch(sounds[0], corruption, *options, "--by", "head", "--top", 2)
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"│ L\dH\d ", result.stdout)) == 2
    assert corruption in PAGE.read_text()


def test_two_files_by_position_name_tokens_and_times(sounds: tuple[Path, Path]) -> None:
    result = patch(*sounds, "--by", "position", "--answer", "glass", "--instead", "rain",
                   "--site", "audio_embed")  # fmt: skip
    assert result.exit_code == 0, result.output
    cells = read_table(TABLE)
    assert cells["token"].iloc[0] == "0.00 s"
    assert cells["position"].is_monotonic_increasing
    assert "next-token probability" in PAGE.read_text()
    assert str(sounds[1].parent) not in PAGE.read_text()


@pytest.mark.long
def test_tokens_that_look_like_formulas_are_texts_in_the_table(sounds: tuple[Path, Path]) -> None:
    """The question's tokens are cells of the table."""
    question = "=1+1 @x -2 dog"
    result = patch(*sounds, "--by", "position", "--question", question, "--answer", "glass",
                   "--instead", "rain", "--max-seconds", 0.1)  # fmt: skip
    assert result.exit_code == 0, result.output
    with open(TABLE, newline="") as file:
        written = [row["token"] for row in csv.DictReader(file)]
    tokens = read_table(TABLE)["token"].tolist()
    assert {"=", "+", "-"} <= {token.strip()[:1] for token in tokens}
    assert [cell for cell in written if cell.strip().startswith(("=", "+", "-", "@"))] == []


@pytest.mark.parametrize(
    ("by", "site", "entries"),
    [
        ("window", "audio_encoder.resid_pre", 6),
        ("head", "audio_encoder.z", 1),
        ("window", "audio_embed", 6),
    ],
)
def test_sites_of_the_audio_side(by: str, site: str, entries: int) -> None:
    result = patch("--by", by, "--site", site, "--window", "0.5")
    assert result.exit_code == 0, result.output
    cells = pd.read_csv(TABLE)
    assert cells["position"].nunique(dropna=False) == entries
    if "resid" in site or site == "audio_embed":
        first = cells[cells["layer"] == 0]
        assert first["recovery"].max() > 0.3


def test_hostile_names_and_questions_stay_text(tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>.wav"
    hostile.write_bytes(testbed.demo_clip().read_bytes())
    question = "</script><script>alert(1)</script>[bold]?"
    result = patch(hostile, "silence", "--question", question, "--choices", "<b>x</b>,glass",
                   "--answer", "glass", "--instead", "<b>x</b>", "--by", "group")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "[bold]" in result.stdout
    page = PAGE.read_text().split("</head>")[1]
    assert "<img" not in page
    assert "<script>alert" not in page
    assert "<b>x" not in page


def test_unequal_lengths_are_cut_only_when_asked(tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, np.random.default_rng(0).uniform(-0.2, 0.2, 32000), 16000)
    options = ("--answer", "glass", "--instead", "knock", "--by", "group")
    assert_refused(
        patch(testbed.demo_clip(), short, *options), "--fit crop keeps the first 2.000 s of both"
    )
    result = patch(testbed.demo_clip(), short, *options, "--cut")
    assert result.exit_code == 0, result.output
    assert "both are cut to 2.00 s" in " ".join(result.stdout.split())
    assert "--fit crop" in PAGE.read_text()


@pytest.mark.parametrize(
    ("fit", "note", "last"),
    [
        ("pad", "the shorter one is followed by silence, up to 2.81 s", "2.50-2.81 s"),
        ("group", "(1.50-2.81 s), every position gets the source's mean", "1.50-2.81 s"),
    ],
)
def test_unequal_lengths_line_up_as_asked(tmp_path: Path, fit: str, note: str, last: str) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, np.random.default_rng(0).uniform(-0.2, 0.2, 28000), 16000)
    options = ("--answer", "glass", "--instead", "knock", "--by", "window", "--by", "head",
               "--by", "group", "--window", "0.5")  # fmt: skip
    result = patch(testbed.demo_clip(), short, *options, "--fit", fit)
    assert result.exit_code == 0, result.output
    assert note in " ".join(result.stdout.split())
    cells = pd.read_csv(TABLE)
    assert set(cells["by"]) == {"window", "head", "group"}
    assert cells[cells["by"] == "window"]["position"].iloc[-1] == last
    assert f"--fit {fit}" in PAGE.read_text()


def test_unequal_positions_have_no_sweep_one_by_one(tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, np.random.default_rng(0).uniform(-0.2, 0.2, 28000), 16000)
    result = patch(testbed.demo_clip(), short, "--answer", "glass", "--instead", "knock",
                   "--by", "position", "--fit", "group")  # fmt: skip
    assert_refused(result, "do not correspond one by one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.wav",), "there is no audio file no.wav"),
        (("{clip}", "no.wav"), "there is no audio file no.wav"),
        (("{clip}", "noise"), "as in noise:10"),
        (("{clip}", "noise:loud"), "as in noise:10"),
        (("{clip}", "noise:inf"), "as in noise:10"),
        (("{clip}", "{clip}"), "the answer to both recordings begins with"),
        (("--answer", "zebra"), "'zebra' is not one of the choices"),
        (("--answer", "glass", "--instead", "glass"), "both answers to compare are 'glass'"),
        (("--site", "nowhere"), "no site is called 'nowhere'"),
        (("--by", "head", "--site", "mlp_out"), "'mlp_out' has no heads"),
        (("--by", "group", "--site", "audio_encoder.z"), "'audio_encoder.z' has no groups"),
        (("--window", "0.01"), "shorter than an audio token"),
        (("--table", "cells.xlsx"), "must end in .csv or .json"),
        (("--table", "a.csv", "--out", "./a.csv"), "both a.csv"),
        (("--out", "none/page.html"), "there is no folder none"),
        (("--table", "none/cells.csv"), "there is no folder none"),
        (("--model", "../nowhere"), "neither a folder nor"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    clip = testbed.demo_clip()
    assert_refused(patch(*(str(clip) if a == "{clip}" else a for a in arguments)), message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--window", "0"),
        ("--window", "nan"),
        ("--window", "inf"),
        ("--direction", "sideways"),
        ("--by", "colour"),
        ("--fit", "stretch"),
        ("--cut", "--fit", "pad"),
        ("--choices", "dog"),
        ("--question", " "),
        ("--answer", ""),
        ("--top", "0"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    assert_refused(patch(*arguments), arguments[0].lstrip("-"), status=2)


def test_debug_shows_the_traceback() -> None:
    assert isinstance(patch("no.wav", "--debug").exception, FileNotFoundError)
