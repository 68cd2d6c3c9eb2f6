"""`lens-audio circuit`, on embedded checkpoints and on bad input."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from lens_audio import HookedAudioTransformer, testbed
from lens_audio.analysis import circuits
from lens_audio.cli import app, circuit
from lens_audio.tables import read_table

torch.set_num_threads(1)

PAGE, TABLE = Path("lens-audio-circuit.html"), Path("lens-audio-circuit.csv")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(circuit, "SIZES", (2, 10))  # which take time


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["circuit", *map(str, arguments)])


def assert_refused(result: Result, message: str, status: int) -> None:
    assert result.exit_code == status, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert list(Path.cwd().iterdir()) == []


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command writes of four synthetic pairs."""
    folder = tmp_path_factory.mktemp("found")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(circuit, "SIZES", (2, 10))
        files = ("--out", folder / "page.html", "--table", folder / "found.json")
        result = run("--pairs", 4, "--edges", 10, *files)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "found.json").read_text())


def test_edges_are_found_on_one_half_of_the_pairs_and_judged_on_the_other(found: dict) -> None:
    assert (found["found_on_pairs"], found["judged_on_pairs"]) == (2, 2)
    model = HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), verbose=False)
    pairs = testbed.make_scene_pairs(4, circuit.SEED)
    graph = circuits.edges(model, circuits.pairs_of_items(model, pairs[:2]))
    judge = list(circuits.pairs_of_items(model, pairs[2:]))
    chosen = graph.greedy(10).to_dataframe()[["sender", "receiver", "input"]]
    edges = {(edge["sender"], edge["receiver"], edge["input"]) for edge in found["edges"]}
    assert edges == set(chosen.itertuples(index=False, name=None))
    judged = {row["n_edges"]: row for row in found["faithfulness"]}
    expected = circuits.circuit_metric(model, judge, graph.greedy(10)).faithfulness
    assert judged[10]["faithfulness"] == pytest.approx(expected, abs=1e-5)
    assert judged[len(graph)]["low"] == pytest.approx(1)


def test_every_edge_leads_to_one_that_joined_before_it(found: dict) -> None:
    assert [edge["order"] for edge in found["edges"]] == list(range(1, 11))
    told = {"logits"}
    for edge in found["edges"]:
        assert edge["receiver"].replace("KV", "H") in told  # each head has its own keys here
        told.add(edge["sender"])


def test_one_pair_of_recordings_has_no_interval_and_says_so(tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>.wav"
    hostile.write_bytes(testbed.demo_clip().read_bytes())
    question = "</script><script>alert(1)</script>[bold]?"
    options = ("--answer", "glass", "--instead", "knock", "--start", 1, "--end", 2, "--edges", 5)
    result = run(hostile, "noise:-10", "--question", question, *options)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "Found and judged on the same pair" in said
    assert not re.search(r"│\s+\S+ \[", result.stdout)
    assert read_table(TABLE)["order"].tolist() == [1, 2, 3, 4, 5]
    page = PAGE.read_text().split("</head>")[1]
    assert "1.00 to 2.00 of" in page
    assert "<img" not in page
    assert "<script>alert" not in page


def test_recordings_of_unequal_length_need_to_be_lined_up(tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, np.random.default_rng(0).uniform(-0.2, 0.2, 16000), 16000)
    result = run(testbed.demo_clip(), short, "--answer", "glass", "--instead", "knock")
    assert_refused(result, "--fit crop keeps the first 1.000 s of both", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.wav",), "there is no audio file no.wav"),
        (("{clip}", "noise"), "as in noise:10"),
        (("{clip}", "--start", "9"), "so nothing of it comes after --start 9"),
        (
            ("{clip}", "--answer", "glass", "--instead", "glass"),
            "both answers to compare are 'glass'",
        ),
        (("--table", "cells.xlsx"), "must end in .csv or .json"),
        (("--out", "none/page.html"), "there is no folder none"),
        (("--model", "../nowhere"), "neither a folder nor"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(HookedAudioTransformer, "from_pretrained", load)
    clip = testbed.demo_clip()
    assert_refused(run(*(str(clip) if a == "{clip}" else a for a in arguments)), message, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--edges", "0"), "--edges"),
        (("--edges", "501"), "--edges"),
        (("--method", "guess"), "--method"),
        (("--pairs", "2"), "--pairs"),
        (("{clip}", "--pairs", "4"), "your recordings are one pair"),
        (("--question", "What?"), "--question"),
        (("--max-seconds", "1"), "--max-seconds"),
        (("{clip}", "--start", "2", "--end", "1"), "--end"),
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], message: str) -> None:
    clip = testbed.demo_clip()
    assert_refused(run(*(str(clip) if a == "{clip}" else a for a in arguments)), message, 2)
