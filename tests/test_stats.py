"""Intervals and tests, where no other page of tests has them: against scipy, and as JSON."""

import json

import numpy as np
import pytest
import scipy.stats
import torch

from lens_audio import stats
from lens_audio.stats import Interval, auroc, correlation_test, mean_intervals


def test_an_interval_is_json_with_null_for_what_is_undefined():
    assert json.loads(json.dumps(Interval(0.5, 0.25, 0.75).to_dict())) == {
        "value": 0.5, "low": 0.25, "high": 0.75, "undefined": None,
    }  # fmt: skip
    none = Interval.undefined_because("no items")
    assert str(none) == "undefined (no items)"
    assert none.to_dict() == {"value": None, "low": None, "high": None, "undefined": "no items"}


def test_auroc_is_mann_whitney_s_statistic_over_the_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, 40) / 8, rng.random(40) > 0.4
    u = scipy.stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    found = auroc(torch.tensor(scores), torch.tensor(labels), n_resamples=1)
    assert found.value == pytest.approx(u / (labels.sum() * (~labels).sum()))


def test_a_mean_of_one_example_has_no_interval():
    with pytest.raises(ValueError, match="at least two of them, not 1"):
        mean_intervals(torch.zeros(3, 1))


def test_what_never_changes_correlates_with_nothing():
    x = torch.stack([torch.arange(5.0), torch.ones(5)], dim=1)
    r, p, corrected = correlation_test(x, torch.arange(5.0), 20)
    assert float(r[0]) == pytest.approx(1.0)
    assert all(bool(found[1].isnan()) for found in (r, p, corrected))
    assert all(bool(found.isnan().all()) for found in correlation_test(x, torch.ones(5), 20))


def test_intervals_say_whether_they_are_over_items_or_over_draws() -> None:
    right = torch.tensor([True, True, False])
    draws = torch.stack([right, ~right])
    assert str(stats.wilson(right)).endswith("]")
    assert str(stats.over_draws(draws)).endswith("] over draws")
    assert stats.paired_difference(draws, right).over == "items and draws"


def test_what_only_differs_between_groups_does_not_correlate_within_them() -> None:
    groups = torch.arange(40) % 2
    x = torch.stack([groups.double(), torch.randn(40, generator=torch.manual_seed(0)).double()], 1)
    y = groups.bool() ^ (torch.arange(40) % 10 < 2)
    r, _, corrected = stats.correlation_test(x, y, 200)
    assert r[0] > 0.5
    assert corrected[0] < 0.05
    r, _, corrected = stats.correlation_test(x, y, 200, groups=groups)
    assert r[0].isnan()
    centred = [v - torch.stack([v[groups == g].mean() for g in (0, 1)])[groups]
               for v in (x[:, 1], y.double())]  # fmt: skip
    assert torch.isclose(r[1], torch.corrcoef(torch.stack(centred))[0, 1])


def test_shares_in_order_of_several_sets_are_those_of_each():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(4, size=(5, 3)), rng.integers(4, size=(5, 6))
    found = stats.share_in_order(positive.astype(float), negative.astype(float))
    pairs = [(np.subtract.outer(p, n)) for p, n in zip(positive, negative, strict=True)]
    assert found == pytest.approx([np.mean((d > 0) + (d == 0) / 2) for d in pairs])


def test_pearson_is_numpys_and_undefined_for_what_never_changes():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0.1
    y = x[:, 0] > 0.2
    expected = [np.corrcoef(column, y)[0, 1] for column in x.T[:2].numpy()]
    assert stats.pearson(x, y)[:2].numpy() == pytest.approx(expected)
    assert stats.pearson(x, y)[2].isnan()
    assert stats.pearson(x, torch.ones(20)).isnan().all()
