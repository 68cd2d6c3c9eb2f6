"""Knocking out and scaling attention against the softmax by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import hooks

SIZES = Sizes()
MODEL = hooked_model(SIZES)
PROMPT = make_prompt(SIZES, Layout([7, 5], [[23], [9, 12]]))
LENGTH = PROMPT.tokens.shape[1]


def patterns(fwd_hooks=()):
    """Pattern of the first layer, which no hook on attention has changed the input of."""
    with torch.no_grad(), MODEL.hooks(fwd_hooks=fwd_hooks):
        return MODEL.run_with_cache(PROMPT)[1]["pattern", 0]


PLAIN = patterns()


def by_hand(factor, queries, keys, heads):
    """Multiply, then divide every row by its sum."""
    selected = torch.zeros_like(PLAIN, dtype=torch.bool)
    selected[:, heads] = queries[..., None, :, None] & keys[:, None, None, :]
    scaled = torch.where(selected, PLAIN * factor, PLAIN)
    return (scaled / scaled.sum(-1, keepdim=True)).nan_to_num(0.0)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 7.0])
def test_attention_is_multiplied_and_normalised_again(factor):
    last = torch.arange(LENGTH) == LENGTH - 1
    found = patterns(
        hooks.scale_attention(keys="audio", queries="last", heads=[1, 3], factor=factor, layer=0)
    )
    expected = by_hand(factor, last, PROMPT.audio_mask, [1, 3])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(-1), PLAIN.sum(-1))


def test_knocked_out_rows_sum_to_one_over_the_other_keys():
    found = patterns(hooks.knock_out_attention(keys=PROMPT.audio_mask, layer=0))
    audio = PROMPT.audio_mask[:, None, None, :].expand_as(found)
    assert not found[audio].any()
    text_before = (PROMPT.attention_mask & ~PROMPT.audio_mask).cumsum(1) > 0
    expected = (text_before & PROMPT.attention_mask)[:, None].float()
    torch.testing.assert_close(found.sum(-1), expected.expand(-1, SIZES.n_heads, -1))


def test_a_query_without_keys_reads_nothing():
    with torch.no_grad(), MODEL.hooks(hooks.knock_out_attention(keys="all", layer=0)):
        logits, cache = MODEL.run_with_cache(PROMPT)
    assert not cache["z", 0].any()
    assert logits.isfinite().all()


def test_a_factor_of_one_changes_nothing():
    with torch.no_grad():
        scaled = MODEL.run_with_hooks(
            PROMPT, fwd_hooks=hooks.scale_attention(keys="audio", factor=1.0)
        )
        torch.testing.assert_close(scaled, MODEL(PROMPT), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(
    factor=st.just(0.0) | st.floats(1e-3, 100),
    keys=st.sets(st.integers(0, LENGTH - 1), min_size=1),
    queries=st.sets(st.integers(0, LENGTH - 1), min_size=1),
    heads=st.sets(st.integers(0, SIZES.n_heads - 1), min_size=1),
)
def test_any_selection_is_the_softmax_by_hand(factor, keys, queries, heads):
    def mask(chosen):
        return torch.isin(torch.arange(LENGTH), torch.tensor(sorted(chosen)))

    found = patterns(
        hooks.scale_attention(
            keys=list(keys), queries=mask(queries), heads=list(heads), factor=factor, layer=0
        )
    )
    expected = by_hand(factor, mask(queries), mask(keys)[None], list(heads))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf")])
def test_refuses_impossible_factors(factor):
    with pytest.raises(ValueError, match="factor must be"):
        hooks.scale_attention(keys="audio", factor=factor)
