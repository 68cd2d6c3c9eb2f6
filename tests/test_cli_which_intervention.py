"""`lens-audio which-intervention`: its page and tables, and what it refuses."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from lens_audio.cli import app


def invoke(*arguments):
    return CliRunner().invoke(app, ["which-intervention", *map(str, arguments)])


@pytest.mark.long
def test_every_intervention_is_compared(tmp_path):
    command = [
        "--checkpoint",
        "planted",
        "-n",
        "8",
        "--draws",
        "1",
        "--device",
        "cpu",
        "--out",
        tmp_path,
    ]
    first = invoke(*command)
    assert first.exit_code == 0, first.output
    tuned = pd.read_csv(tmp_path / "tuning.csv")
    assert tuned["intervention"].nunique() == 10
    table = pd.read_csv(tmp_path / "interventions.csv")
    assert set(table["intervention"]) <= set(tuned["intervention"])
    assert "Which intervention?" in (tmp_path / "report.html").read_text()


def test_too_few_clips_are_refused(tmp_path):
    result = invoke("-n", "4", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--clips" in result.output
