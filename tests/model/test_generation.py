"""Generation: transformers' tokens, the hooks at every step, the streams and the caches."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt

from lens_audio import HookedAudioTransformer

SIZES = Sizes()
N_NEW = 12
SINGLE = Layout([7], [[23]])
BATCH = Layout([9, 4, 6], [[23], [], [9, 30]], "left")
EOS = 17


@pytest.fixture(scope="module")
def hf():
    return hf_model(SIZES, attn="sdpa")


@pytest.fixture(scope="module")
def model(hf):
    return HookedAudioTransformer.from_hf(hf)


class Letters:
    """A tokenizer of one character a token."""

    eos_token_id, pad_token_id, padding_side = None, 0, "left"

    def batch_decode(self, tokens, **_):
        return ["".join(chr(48 + int(t)) for t in row) for row in tokens]


@pytest.fixture
def talker(model):
    model._tokenizer = Letters()
    yield model
    model._tokenizer = None


def hf_generate(hf, prompt, eos=None):
    inputs = hf_inputs(prompt)
    inputs.pop("position_ids")
    out = hf.generate(
        **inputs, max_new_tokens=N_NEW, do_sample=False, eos_token_id=eos, pad_token_id=0
    )
    return out[:, prompt.tokens.shape[1] :]


def generate(model, prompt, **options):
    options = {"max_new_tokens": N_NEW, "return_type": "tokens", "verbose": False} | options
    return model.generate(prompt, **options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layout", [SINGLE, BATCH, Layout([5], [[]])])
def test_greedy_gives_the_tokens_of_transformers(hf, model, layout, seed):
    prompt = make_prompt(SIZES, layout, seed)
    assert torch.equal(generate(model, prompt), hf_generate(hf, prompt))


def an_eos(hf, prompt):
    """A token that the first row says in the middle of its answer."""
    return int(hf_generate(hf, prompt)[0, N_NEW // 2])


def test_rows_stop_at_eos_and_are_padded_as_in_transformers(hf, model):
    prompt = make_prompt(SIZES, BATCH)
    eos = an_eos(hf, prompt)
    found = generate(model, prompt, eos_token_id=eos)
    assert torch.equal(found, hf_generate(hf, prompt, eos))


def test_any_of_several_eos_tokens_stops(hf, model):
    prompt = make_prompt(SIZES, SINGLE)
    eos = [1, an_eos(hf, prompt)]
    found = generate(model, prompt, eos_token_id=eos)
    assert torch.equal(found, hf_generate(hf, prompt, eos))


def test_stop_at_eos_false_goes_on(hf, model):
    prompt = make_prompt(SIZES, SINGLE)
    found = generate(model, prompt, eos_token_id=an_eos(hf, prompt), stop_at_eos=False)
    assert found.shape[1] == N_NEW


def test_without_a_kv_cache_the_tokens_are_the_same(model):
    prompt = make_prompt(SIZES, BATCH)
    assert torch.equal(generate(model, prompt, use_past_kv_cache=False), generate(model, prompt))


def test_tokens_come_back_with_their_continuation(model):
    tokens = torch.tensor([[5, 9, 8]])
    found = model.generate(tokens, 4, verbose=False)
    assert torch.equal(found[:, :3], tokens)
    assert found.shape == (1, 7)


def test_sampling_repeats_under_a_seed(model):
    prompt = make_prompt(SIZES, BATCH)
    torch.manual_seed(3)
    first = generate(model, prompt, do_sample=True, temperature=1.5)
    torch.manual_seed(3)
    assert torch.equal(generate(model, prompt, do_sample=True, temperature=1.5), first)


def test_sampling_differs_between_seeds(model):
    prompt = make_prompt(SIZES, BATCH)
    torch.manual_seed(3)
    first = generate(model, prompt, do_sample=True, temperature=3.0)
    torch.manual_seed(4)
    assert not torch.equal(generate(model, prompt, do_sample=True, temperature=3.0), first)


def test_sampling_of_the_likeliest_token_is_greedy(model):
    prompt = make_prompt(SIZES, BATCH)
    found = generate(model, prompt, do_sample=True, top_k=1)
    assert torch.equal(found, generate(model, prompt))


def test_repetition_penalty_is_that_of_transformers(hf, model):
    prompt = make_prompt(SIZES, Layout([6], [[]]))
    expected = hf.generate(
        prompt.tokens,
        attention_mask=prompt.attention_mask.long(),
        max_new_tokens=N_NEW,
        do_sample=False,
        repetition_penalty=1.7,
        pad_token_id=0,
    )
    found = generate(model, prompt.tokens, repetition_penalty=1.7)
    assert torch.equal(found, expected)


def test_stream_joins_to_the_text_of_generate(talker):
    prompt = make_prompt(SIZES, SINGLE)
    text = talker.generate(prompt, N_NEW, verbose=False)
    assert "".join(talker.generate_stream(prompt, N_NEW)) == text


def test_stream_of_a_batch_joins_row_by_row(talker):
    prompt = make_prompt(SIZES, BATCH)
    pieces = list(talker.generate_stream(prompt, N_NEW))
    joined = ["".join(row) for row in zip(*pieces, strict=True)]
    assert joined == talker.generate(prompt, N_NEW, verbose=False)


def test_stream_keeps_back_half_a_character(model):
    halves = SimpleNamespace(
        batch_decode=lambda tokens, **_: [
            "é" * (len(t) // 2) + "\ufffd" * (len(t) % 2) for t in tokens
        ],
        eos_token_id=None,
        pad_token_id=0,
    )
    model._tokenizer = halves
    try:
        pieces = list(model.generate_stream(make_prompt(SIZES, SINGLE), 6))
    finally:
        model._tokenizer = None
    assert pieces == ["é", "é", "é"]


def test_stream_shows_half_a_character_where_the_answer_ends_after_it(hf, model):
    prompt = make_prompt(SIZES, SINGLE)
    eos = an_eos(hf, prompt)
    said = generate(model, prompt, eos_token_id=eos)[0].tolist()
    model._tokenizer = SimpleNamespace(
        # The last token before the end is half a character; a special token is no text.
        batch_decode=lambda tokens, **_: [
            "".join("\ufffd" if t == said[-2] else "a" for t in row if t != eos)
            for row in tokens.tolist()
        ],
        eos_token_id=None,
        pad_token_id=0,
    )
    try:
        pieces = list(model.generate_stream(prompt, N_NEW, eos_token_id=eos))
        text = model.generate(prompt, N_NEW, eos_token_id=eos, verbose=False)
    finally:
        model._tokenizer = None
    assert "".join(pieces) == text
    assert text.endswith("\ufffd")


@pytest.mark.parametrize(
    "form", [np.int64, torch.tensor, np.array, lambda eos: [np.int32(eos)], lambda eos: (1, eos)]
)
def test_an_eos_token_may_be_an_integer_of_any_kind_or_several(hf, model, form):
    prompt = make_prompt(SIZES, SINGLE)
    eos = an_eos(hf, prompt)
    assert torch.equal(
        generate(model, prompt, eos_token_id=form(eos)), generate(model, prompt, eos_token_id=eos)
    )


@pytest.mark.parametrize("eos", [1.5, True, "</s>", [None]])
def test_an_eos_token_that_is_no_integer_is_refused(model, eos):
    with pytest.raises(ValueError, match="eos_token_id must be an integer"):
        generate(model, make_prompt(SIZES, SINGLE), eos_token_id=eos)


def test_stream_gives_its_first_piece_before_the_last_step(talker):
    n_steps = 0

    def count(value, hook):
        nonlocal n_steps
        n_steps += 1

    with talker.hooks([("blocks.0.hook_resid_pre", count)]):
        next(iter(talker.generate_stream(make_prompt(SIZES, SINGLE), N_NEW)))
    assert n_steps < N_NEW


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_hooks_fire_at_every_step(model, use_past_kv_cache):
    n_steps = 0

    def count(value, hook):
        nonlocal n_steps
        n_steps += 1

    with model.hooks([("blocks.1.attn.hook_pattern", count)]):
        generate(model, make_prompt(SIZES, BATCH), use_past_kv_cache=use_past_kv_cache)
    assert n_steps == N_NEW


def test_a_hook_steers_every_step(model):
    def favour(value, hook):
        value[..., 41] = 1e9
        return value

    with model.hooks([("unembed.hook_out", favour)]):
        found = generate(model, make_prompt(SIZES, BATCH))
    assert (found == 41).all()


def full_forward(model, prompt, new):
    """The activations of one forward over the prompt and all generated tokens but the last."""
    n = new.shape[1] - 1
    pad = torch.nn.functional.pad
    longer = replace(
        prompt,
        tokens=torch.cat([prompt.tokens, new[:, :-1]], dim=1),
        attention_mask=pad(prompt.attention_mask, (0, n), value=True),
        audio_mask=pad(prompt.audio_mask, (0, n), value=False),
    )
    with torch.no_grad():
        return model.run_with_cache(longer)[1]


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
@pytest.mark.parametrize("layout", [SINGLE, BATCH])
def test_returned_cache_is_that_of_one_full_forward(model, layout, use_past_kv_cache):
    prompt = make_prompt(SIZES, layout)
    new, cache = generate(model, prompt, return_cache=True, use_past_kv_cache=use_past_kv_cache)
    expected = full_forward(model, prompt, new)
    assert set(cache.keys()) == set(expected.keys())
    for name in expected:
        assert cache[name].shape == expected[name].shape, name
        torch.testing.assert_close(
            cache[name], expected[name], atol=2e-5, rtol=0, msg=lambda t, n=name: f"{n}: {t}"
        )


def test_returned_cache_holds_what_was_asked(model):
    names = ["blocks.0.hook_resid_post", "audio_encoder.hook_out"]
    _, cache = generate(model, make_prompt(SIZES, SINGLE), return_cache=True, names_filter=names)
    assert set(cache.keys()) == set(names)


def test_return_cache_leaves_the_tokens_as_they_are(model):
    prompt = make_prompt(SIZES, BATCH)
    found, _ = generate(model, prompt, return_cache=True)
    assert torch.equal(found, generate(model, prompt))


def test_generation_leaves_no_hook_and_no_gradient_behind(model):
    _, cache = generate(model, make_prompt(SIZES, SINGLE), return_cache=True)
    assert not model.list_hooks()
    assert not cache["blocks.0.hook_resid_post"].requires_grad


def test_generation_inside_listening_to_hears_the_audio(model):
    prompt = make_prompt(SIZES, BATCH)
    with model.listening_to(prompt):
        found = model.generate(prompt, N_NEW, return_type="tokens", verbose=False)
    assert torch.equal(found, generate(model, prompt))


def test_right_padding_is_refused(model):
    prompt = make_prompt(SIZES, Layout([9, 4], [[23], []], "right"))
    with pytest.raises(ValueError, match="left"):
        generate(model, prompt)


def test_no_new_tokens_is_refused(model):
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(model, make_prompt(SIZES, SINGLE), max_new_tokens=0)


def test_a_context_that_will_not_fit_is_refused(model):
    with pytest.raises(ValueError, match=r"context is 128"):
        generate(model, make_prompt(SIZES, SINGLE), max_new_tokens=200)


def test_text_needs_the_tokenizer_and_says_so(model):
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(make_prompt(SIZES, SINGLE), 2, verbose=False)
