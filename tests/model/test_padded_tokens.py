"""Tokens that were padded read as their rows do alone, by HookedTransformer's rule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_audio import HookedAudioTransformer, KeyValueCache, testbed

TEXTS = ["What do you hear?", "Name the loudest sound in this recording, and say when it begins."]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model():
    return HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), device="cpu")


@pytest.fixture
def padded(model):
    return model.to_tokens(TEXTS, padding_side="left")


def alone(model, row):
    return model(model.to_tokens(TEXTS[row]))[0]


@pytest.mark.parametrize("row", [0, 1])
def test_each_row_of_left_padded_tokens_is_as_alone(model, padded, row):
    expected = alone(model, row)
    torch.testing.assert_close(model(padded)[row, -len(expected) :], expected, atol=1e-4, rtol=0)


def test_each_row_of_right_padded_tokens_is_as_alone(model):
    right = model.to_tokens(TEXTS, padding_side="right")
    expected = alone(model, 0)
    found = model(right, padding_side="right")[0, : len(expected)]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_loss_of_padded_tokens_leaves_the_padding_out(model):
    short = model.to_tokens(TEXTS)[:1]
    expected = model(model.to_tokens(TEXTS[:1]), return_type="loss")
    torch.testing.assert_close(model(short, return_type="loss"), expected, atol=1e-4, rtol=0)


def test_generation_from_padded_tokens_is_as_of_each_row_alone(model, padded):
    options = {"max_new_tokens": 4, "stop_at_eos": False, "verbose": False}
    together = model.generate(padded, **options)
    for row, text in enumerate(TEXTS):
        expected = model.generate(model.to_tokens(text), **options)[0, -4:]
        assert torch.equal(together[row, -4:], expected)


def test_a_given_mask_is_followed_by_every_way_to_run(model, padded):
    real = torch.ones_like(padded)
    real[0, : (padded[0] == model.tokenizer.pad_token_id).sum() + 2] = 0
    expected = model(padded, attention_mask=real)
    assert not torch.allclose(expected[0, -1], model(padded)[0, -1])
    for found in (
        model.run_with_cache(padded, attention_mask=real)[0],
        model.run_with_hooks(padded, attention_mask=real),
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    found = model.generate(padded, 1, attention_mask=real, stop_at_eos=False)
    assert torch.equal(found[:, -1], expected[:, -1].argmax(-1))
    pieces = list(model.generate_stream(padded, 3, attention_mask=real, stop_at_eos=False))
    answers = model.generate(padded, 3, attention_mask=real, stop_at_eos=False)
    texts = model.tokenizer.batch_decode(answers[:, padded.shape[1] :], skip_special_tokens=True)
    assert ["".join(piece[row] for piece in pieces) for row in (0, 1)] == texts


def test_a_mask_of_ones_makes_pad_tokens_real(model, padded):
    text = model.run_with_cache(padded, attention_mask=torch.ones_like(padded))[0]
    assert not torch.allclose(text[0], model(padded)[0])


def test_a_row_of_pad_tokens_alone_is_real(model):
    pad = model.tokenizer.pad_token_id
    tokens = torch.tensor([[pad, pad]])
    expected = model(tokens, attention_mask=torch.ones_like(tokens))
    assert torch.equal(model(tokens), expected)


def test_pad_tokens_amid_a_row_are_real(model):
    pad = model.tokenizer.pad_token_id
    tokens = torch.tensor([[5, pad, 6]])
    assert torch.equal(model(tokens), model(tokens, attention_mask=torch.ones_like(tokens)))


def test_new_tokens_over_a_cache_are_real_even_pad_tokens(model):
    pad = model.tokenizer.pad_token_id
    whole = torch.tensor([[5, 6, pad, 7]])
    cache = KeyValueCache(model.cfg.n_layers)
    model(whole[:, :2], past_kv_cache=cache)
    found = model(whole[:, 2:], past_kv_cache=cache)
    torch.testing.assert_close(found, model(whole)[:, 2:], atol=1e-4, rtol=0)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.sampled_from(["left", "right"]))
def test_the_mask_is_false_in_the_run_of_pads_at_the_padding_side_only(model, is_pad, side):
    pad = model.tokenizer.pad_token_id
    tokens = torch.tensor([[pad if p else 5 for p in is_pad]])
    found = model.padding_mask(tokens, padding_side=side)
    row = is_pad if side == "left" else is_pad[::-1]
    n_pads = next((i for i, p in enumerate(row) if not p), 0)
    expected = [False] * n_pads + [True] * (len(row) - n_pads)
    expected = expected if side == "left" else expected[::-1]
    assert [True] * len(row) == expected if found is None else found[0].tolist() == expected


def test_generate_refuses_a_mask_of_another_shape(model, padded):
    with pytest.raises(ValueError, match="attention_mask of shape"):
        model.generate(padded, attention_mask=torch.ones(1, 3))


def test_generation_takes_padding_to_be_on_the_left_whatever_the_tokenizer_says(model, padded):
    options = {"max_new_tokens": 3, "stop_at_eos": False, "verbose": False}
    expected = model.generate(padded, **options)
    side = model.tokenizer.padding_side
    model.tokenizer.padding_side = "right"
    try:
        assert torch.equal(model.generate(padded, **options), expected)
    finally:
        model.tokenizer.padding_side = side
