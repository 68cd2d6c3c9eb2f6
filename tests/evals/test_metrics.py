"""What benchmarks report: ratios worked out by hand, and their intervals against plain loops."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.metrics import Ratio, Row, f1, metrics_of, rule_of, share, unit_of
from lens_audio.stats import MANY_KINDS

T, F = True, False


def ratio(numerators, denominators):
    return Ratio(torch.tensor(numerators).double(), torch.tensor(denominators).double())


def test_a_share_of_all_rows_and_of_some():
    assert share([T, T, F, F]).value == 0.5
    assert share([T, T, F, F], among=[T, F, T, T]).value == pytest.approx(1 / 3)


def test_f1_of_two_hits_one_false_alarm_and_three_misses():
    predicted = [T, T, T, F, F, F, F]
    actual = [T, T, F, T, T, T, F]
    # precision 2/3, recall 2/5: 2 * 2/3 * 2/5 / (2/3 + 2/5) = 4/8
    assert f1(predicted, actual).value == 0.5


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(rows):
    predicted, actual = map(list, zip(*rows, strict=True))
    precision, recall = share(actual, predicted).value, share(predicted, actual).value
    if precision + recall > 0:  # both are numbers
        mean = 2 * precision * recall / (precision + recall)
        assert f1(predicted, actual).value == pytest.approx(mean)


def test_without_a_denominator_it_is_undefined_and_says_why():
    none = share([F, F], among=[F, F], undefined="no question was answered yes")
    assert math.isnan(none.value)
    for interval in (none.interval(["a", "b"]), none.change_from(share([T, F]), ["a", "b"])):
        assert interval.undefined == "no question was answered yes"
    other = share([T, F]).change_from(none, ["a", "b"])
    assert other.undefined == "no question was answered yes"


def quantiles_over_all_resamples(rows, units):
    """The exact bootstrap distribution's quantiles: every resample, equally likely."""
    names = sorted(set(units))
    values = []
    for drawn in itertools.product(names, repeat=len(names)):
        chosen = [
            row for name in drawn for row, unit in zip(rows, units, strict=True) if unit == name
        ]
        values.append(sum(n for n, _ in chosen) / sum(d for _, d in chosen))
    return np.quantile(values, [0.025, 0.975])


def test_the_interval_is_that_of_all_resamples_of_units():
    rows = [(1, 1), (0, 1), (1, 1), (1, 1), (0, 1), (0, 1), (1, 2), (0, 1), (1, 1)]
    units = ["a", "a", "b", "b", "b", "c", "d", "d", "e"]
    interval = ratio(*zip(*rows, strict=True)).interval(units)
    assert interval.value == pytest.approx(5 / 10)
    np.testing.assert_allclose(interval[1:3], quantiles_over_all_resamples(rows, units), atol=0.05)


def loop(first, second, units, n=200):
    """Draw units with replacement and add up their rows, one resample after another."""
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(np.asarray(units) == unit) for unit in dict.fromkeys(units)]
    values = []
    for _ in range(n):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        a, b = (np.asarray(side)[:, rows].sum(1) for side in (first, second))
        values.append(a[0] / a[1] - b[0] / b[1])
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("kinds", ["right and wrong", "all different"])
def test_a_change_has_the_interval_of_a_plain_loop(kinds):
    n = 2 * (MANY_KINDS + 10)
    rng = np.random.default_rng(0)
    parts = rng.integers(2, size=(3, n)) if kinds == "right and wrong" else rng.random((3, n))
    sides = [np.stack([parts[0], np.ones(n)]), np.stack([parts[1] * parts[2], parts[2]])]
    units = [str(row // 2) for row in range(n)]
    first, second = (ratio(*side) for side in sides)
    change = first.change_from(second, units)
    assert change.value == pytest.approx(first.value - second.value)
    np.testing.assert_allclose(change[1:3], loop(*sides, units), atol=0.01)


def test_the_same_answers_never_change():
    right = share([T, F, T, T])
    assert right.change_from(right, list("aabc"))[:3] == (0, 0, 0)


def test_units_that_are_drawn_together_widen_the_interval():
    right = share([T] * 40 + [F] * 40)
    alone = right.interval([str(row) for row in range(80)])
    together = right.interval([str(row // 20) for row in range(80)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), min_size=1, max_size=12), st.data()
)
def test_the_order_of_rows_changes_nothing(rows, data):
    shuffled = data.draw(st.permutations(rows))
    intervals = [
        share([right for right, _ in some]).interval([unit for _, unit in some])
        for some in (rows, shuffled)
    ]
    assert intervals[0] == intervals[1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), min_size=1, max_size=20))
def test_an_interval_of_a_share_lies_between_0_and_1(rows):
    interval = share([right for right, _ in rows]).interval([unit for _, unit in rows])
    assert 0 <= interval.low <= interval.high <= 1


def test_resamples_without_a_denominator_are_left_out():
    assert share([T, F, F], among=[T, F, F]).interval(list("abc"))[:3] == (1, 1, 1)


@pytest.mark.parametrize("units", [[], ["a"], ["a", "b", "c"]])
def test_every_row_needs_its_unit(units):
    with pytest.raises(ValueError, match=f"{len(units)} units were given for 2 rows"):
        share([T, F]).interval(units)


def test_a_change_is_over_the_same_rows():
    with pytest.raises(ValueError, match="the same rows, and these are 2 and 3"):
        share([T, F]).change_from(share([T, F, F]), ["a", "b"])


def test_what_a_benchmark_does_not_say_is_its_accuracy_by_item():
    plain = SyntheticQA.make(1)
    rows = [Row(item, "", correct) for item, correct in zip(plain.items, [T, F, F], strict=True)]
    (name, accuracy), *others = metrics_of(plain, rows).items()
    assert (name, accuracy.value, others) == ("accuracy", pytest.approx(1 / 3), [])
    assert unit_of(plain, plain.items[0]) == plain.items[0].id
    assert rule_of(plain) == ""


def test_what_a_benchmark_says_is_asked():
    @dataclass(frozen=True)
    class Own(SyntheticQA):
        rule: str = "our own"

        def metrics(self, rows):
            return {"yes": share([row.prediction == "yes" for row in rows])}

        def unit(self, item):
            return item.id[0]

    own = Own([], "1")
    item = AudioQAItem("ab", "Is it?", ("yes", "no"), "yes")
    assert metrics_of(own, [Row(item, "yes", T)])["yes"].value == 1
    assert (unit_of(own, item), rule_of(own)) == ("a", "our own")
