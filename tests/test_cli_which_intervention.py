"""`lens-audio which-intervention`: its page and tables, and what it refuses."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from lens_audio.cli import app
from lens_audio.evals import interventions

SOME = ("steered", "silence", "audio")  # the others take the same way


def invoke(*arguments):
    return CliRunner().invoke(app, ["which-intervention", *map(str, arguments)])


@pytest.mark.long
def test_interventions_are_compared_on_one_page_and_in_tables(tmp_path, monkeypatch):
    every = interventions.interventions_of
    monkeypatch.setattr(
        interventions, "interventions_of", lambda *of: {name: every(*of)[name] for name in SOME}
    )
    (tmp_path / "here" / "planted").mkdir(parents=True)  # not the checkpoint that is meant
    monkeypatch.chdir(tmp_path / "here")
    result = invoke("--checkpoint", "planted", "-n", "8", "--draws", "1", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    tuned = pd.read_csv(tmp_path / "tuning.csv")
    assert tuned["intervention"].nunique() == len(SOME)
    table = pd.read_csv(tmp_path / "interventions.csv")
    assert set(table["intervention"]) <= set(tuned["intervention"])
    assert "Which intervention?" in (tmp_path / "report.html").read_text()


def test_too_few_clips_are_refused(tmp_path):
    result = invoke("-n", "4", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--clips" in result.output
