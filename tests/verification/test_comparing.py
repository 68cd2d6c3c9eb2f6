"""The rule by which `verify` says that two results agree, on numbers worked by hand."""

import pytest
import torch
from torch import tensor

from lens_audio.verification.comparing import (
    Apart,
    Difference,
    allowed_share,
    apart,
    compare_tokens,
)
from lens_audio.verification.reading import Generated

EPS = 2.0**-23  # float32's


def test_a_difference_is_the_largest_and_its_share_the_worst_of_a_position():
    a = tensor([[10.0, 103.0], [1.5, 0.0]])
    b = tensor([[10.0, 100.0], [1.0, 0.5]])
    assert apart("x", a, b) == Apart(largest=3.0, share=0.5)


def test_many_positions_are_compared_to_the_last():
    b = torch.ones(1000, 2)
    a = b.clone()
    a[999, 1] = 3
    assert apart("x", a, b) == Apart(largest=2.0, share=2.0)


def test_bfloat16_is_compared_without_rounding_the_difference():
    a, b = tensor([[1.0, 2.0**-9]]).bfloat16(), tensor([[1.0, 0.0]]).bfloat16()
    assert apart("x", a, b).largest == 2.0**-9


def test_activations_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"blocks\.0.*\(2, 3\).*\(2, 4\)"):
        apart("blocks.0", torch.ones(2, 3), torch.ones(2, 4))


def test_four_times_their_own_difference_and_four_epsilons_are_allowed():
    assert allowed_share(Apart(0.0, 0.25), torch.float32) == 1 + 4 * EPS
    assert allowed_share(Apart(0.0, 0.0), torch.bfloat16) == 4 * 2.0**-7


@pytest.mark.parametrize(("share", "agrees"), [(0.5, True), (0.51, False), (float("nan"), False)])
def test_what_is_allowed_agrees_and_nan_does_not(share, agrees):
    found = Difference("x", Apart(1.0, share), Apart(1.0, 0.1), allowed=0.5)
    assert found.agrees is agrees


THEIRS = tensor([[[0.0, 1.0, 8.0], [0.0, 7.0, 8.0], [8.0, 0.0, 0.0]]])  # [row, step, token]


def row(ours, allowed):
    """The row of greedy tokens of these logits beside `THEIRS`."""
    mine, theirs = (Generated(logits.argmax(-1), logits) for logits in (ours, THEIRS))
    return compare_tokens(mine, theirs, allowed)[0]


def test_the_same_tokens_of_near_logits_agree():
    found = row(THEIRS + 0.5, allowed=0.1)
    assert (found.agrees, found.parts_at, found.gap) == (True, None, None)
    assert found.logits == Apart(0.5, 0.0625)


def test_the_same_tokens_of_far_logits_differ():
    assert not row(THEIRS + 2, allowed=0.1).agrees


def test_tokens_may_part_at_a_tie_and_what_follows_is_not_compared():
    ours = THEIRS.clone()
    ours[0, 1] = tensor([0.0, 7.6, 7.5])
    ours[0, 2] = tensor([0.0, 8.0, 0.0])
    found = row(ours, allowed=0.1)
    assert (found.agrees, found.parts_at, found.gap) == (True, 1, 0.125)


def test_tokens_that_part_without_a_tie_differ():
    ours = THEIRS.clone()
    ours[0, 0] = tensor([0.0, 8.0, 7.0])
    found = row(ours, allowed=0.1)
    assert (found.agrees, found.parts_at, found.gap) == (False, 0, 0.875)
