"""Metrics against hand-made numbers."""

import math
import warnings

import pytest
import torch

from lens_audio.analysis.metrics import (
    kl_from,
    log_prob,
    logit_diff,
    metric_name,
    metric_values,
    normalised,
    probability,
)

LOGITS = torch.tensor([[1.0, 2.0, 4.0, 0.0], [3.0, 0.5, -1.0, 2.0]])


def test_logit_difference_of_one_token_for_all_rows():
    assert logit_diff(2, 0)(LOGITS).tolist() == [3.0, -4.0]


@pytest.mark.parametrize("as_tokens", [list, torch.tensor])
def test_logit_difference_of_a_token_for_each_row(as_tokens):
    assert logit_diff(as_tokens([2, 0]), as_tokens([1, 3]))(LOGITS).tolist() == [2.0, 1.0]


def test_several_incorrect_tokens_are_averaged():
    assert logit_diff(2, [[0, 1]])(LOGITS).tolist() == [2.5, -2.75]
    assert logit_diff(2, [[0, 1], [3, 3]])(LOGITS).tolist() == [2.5, -3.0]


def test_probability_and_its_logarithm():
    first = math.exp(4) / sum(math.exp(x) for x in (1, 2, 4, 0))
    assert probability(2)(LOGITS)[0].item() == pytest.approx(first)
    assert log_prob(2)(LOGITS)[0].item() == pytest.approx(math.log(first))


def test_several_tokens_share_one_probability():
    assert probability([[0, 1, 2, 3]])(LOGITS).tolist() == pytest.approx([1.0, 1.0])
    both = probability(0)(LOGITS) + probability(1)(LOGITS)
    torch.testing.assert_close(log_prob([[0, 1]])(LOGITS).exp(), both)


def test_divergence_from_itself_is_zero_and_from_others_is_the_sum():
    assert kl_from(LOGITS)(LOGITS).abs().max() < 1e-6
    p, q = LOGITS[0].softmax(0), LOGITS[1].softmax(0)
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close(kl_from(LOGITS[:1])(LOGITS)[1], expected)


def test_recovery_is_zero_at_corrupted_and_one_at_clean():
    metric = logit_diff(2, 0)
    clean, corrupted = torch.tensor([3.0, 2.0]), torch.tensor([1.0, -4.0])
    recovery = normalised(metric, clean, corrupted)
    assert recovery(LOGITS).tolist() == [1.0, 0.0]
    assert normalised(metric, 5.0, 1.0)(LOGITS).tolist() == [0.5, -1.25]


def test_recovery_is_undefined_where_the_runs_agree():
    clean, corrupted = torch.tensor([3.0, 0.5]), torch.tensor([1.0, 0.5 + 1e-8])
    with pytest.warns(UserWarning, match=r"1 of 2 rows; recovery there is NaN"):
        recovery = normalised(logit_diff(2, 0), clean, corrupted)
    values = recovery(LOGITS)
    assert values[0] == 1
    assert values[1].isnan()
    with pytest.raises(ValueError, match=r"'recovery of logit difference' is NaN in rows \[1\]"):
        metric_values(recovery, LOGITS)


def test_small_but_real_differences_are_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalised(probability(0), 2e-9, 1e-9)


def test_low_precision_logits_give_float32():
    assert probability(0)(LOGITS.bfloat16()).dtype == torch.float32
    assert kl_from(LOGITS.bfloat16())(LOGITS.double()).dtype == torch.float64


def test_gradients_flow_to_the_logits_of_their_own_row():
    logits = LOGITS.clone().requires_grad_()
    normalised(logit_diff(2, 0), 2.0, 1.0)(logits)[0].backward()
    assert logits.grad.tolist() == [[-1.0, 0.0, 1.0, 0.0], [0.0] * 4]


@pytest.mark.parametrize("tokens", [[], [1.5], [True, False], [[[1]]]])
def test_refuses_what_is_no_token(tokens):
    with pytest.raises(ValueError, match="token ids"):
        probability(torch.tensor(tokens))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (logit_diff(0, [1, 2, 3]), r"3 rows.*\[\[a, b\]\]"),
        (probability(4), "tokens 0 to 3"),
        (log_prob(-1), "tokens 0 to 3"),
        (kl_from(torch.zeros(2, 3)), "reference logits"),
        (normalised(probability(0), torch.ones(3), 0.0), "3 rows"),
    ],
)
def test_refuses_logits_that_do_not_fit(metric, message):
    with pytest.raises(ValueError, match=message):
        metric(LOGITS)


@pytest.mark.parametrize("wrong", [lambda logits: logits, lambda logits: logits.sum()])
def test_a_metric_must_give_one_number_a_row(wrong):
    with pytest.raises(ValueError, match="one number a row"):
        metric_values(wrong, LOGITS)


def test_names():
    def loudness(logits):
        return logits[:, 0]

    assert metric_name(logit_diff(0, 1)) == "logit difference"
    assert metric_name(normalised(loudness, 1.0, 0.0)) == "recovery of loudness"
