"""Accuracies of a benchmark's runs, drawn."""

import pandas as pd
import pytest

from lens_audio.plots.benchmark import run_accuracies
from lens_audio.plots.pages.runs import said_of_run

ROWS = [
    ("base", "all", 0.5, 0.4, 0.6),
    ("steered<b>", "all", 0.6, 0.5, 0.7),
    ("base", "sound", 0.3, 0.1, 0.6),
]
TABLE = pd.DataFrame(ROWS, columns=["run", "value", "accuracy", "low", "high"])


def test_every_run_is_a_point_with_its_interval_in_each_panel():
    figure = run_accuracies(TABLE)
    first, second = figure.data
    assert list(first.x) == [0.5, 0.6]
    assert list(first.error_x.array) == pytest.approx([0.1, 0.1])
    assert list(second.error_x.arrayminus) == pytest.approx([0.2])
    assert [note.text for note in figure.layout.annotations] == ["all", "sound"]


def test_names_are_escaped():
    assert "steered&lt;b&gt;" in figure_text(run_accuracies(TABLE))
    assert "<b>" not in figure_text(run_accuracies(TABLE))


def figure_text(figure):
    return figure.to_json().replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u0026", "&")


def test_a_table_without_rows_or_columns_is_refused():
    with pytest.raises(ValueError, match="no column low"):
        run_accuracies(TABLE.drop(columns="low"))
    with pytest.raises(ValueError, match="no rows"):
        run_accuracies(TABLE[:0])


def test_what_a_run_is_is_said_in_words():
    at = "blocks.{}.attn.hook_attn_scores"
    does = {"what": "scale attention", "factor": 2, "queries": None}
    assert said_of_run({"what": "hooks", "hooks": [[at, does]]}) == (
        "scale attention, factor 2 at blocks.*.attn.hook_attn_scores"
    )
    assert said_of_run({"what": "ContrastiveDecoding", "alpha": 1, "caption": None}) == (
        "ContrastiveDecoding, alpha 1"
    )
