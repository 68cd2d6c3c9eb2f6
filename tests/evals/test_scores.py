"""Accuracies by fact, and runs compared."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_audio.evals.scores import accuracies, comparisons, mcnemar


def exact(gained, lost):
    """McNemar's p by its definition: twice the smaller tail of a fair coin, at most 1."""
    n, least = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
def test_mcnemar_is_the_exact_test(gained, lost, same):
    first = torch.tensor([False] * gained + [True] * lost + [True] * same, dtype=torch.bool)
    second = torch.tensor([True] * gained + [False] * lost + [True] * same, dtype=torch.bool)
    found = mcnemar(first, second)
    assert found[:2] == (gained, lost)
    assert found.p_value == pytest.approx(exact(gained, lost))


def test_accuracy_in_total_and_by_each_fact():
    correct = {
        "base": torch.tensor([1, 0, 1, 1]).bool(),
        "other": torch.tensor([0, 0, 0, 1]).bool(),
    }
    facts = [{"task": "sound"}, {"task": "sound"}, {"task": "music"}, {}]
    table = accuracies(correct, facts, ["task"]).set_index(["run", "group", "value"])
    assert table.loc["base", "all", "all"][["n", "correct", "accuracy"]].tolist() == [4, 3, 0.75]
    assert table.loc["base", "task", "sound"]["accuracy"] == 0.5
    assert table.loc["other", "task", "music"]["correct"] == 0
    assert table.loc["base", "task", ""]["n"] == 1
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()


def test_runs_are_compared_with_the_first():
    correct = {
        "base": torch.tensor([1, 0, 0, 0]).bool(),
        "other": torch.tensor([0, 1, 1, 0]).bool(),
    }
    row = comparisons(correct).iloc[0]
    assert row[["run", "gained", "lost", "change"]].tolist() == ["other", 2, 1, 0.25]
    assert row["low"] <= 0.25 <= row["high"]
