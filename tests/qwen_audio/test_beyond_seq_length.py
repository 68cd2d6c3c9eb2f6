"""Dynamic NTK and log-n scaling: exact over caches, in padded batches, in either attention path."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout
from qwen_audio_golden import CASES, SEQ_LENGTH, golden_case, golden_model, golden_prompt
from qwen_audio_models import SIZES, edged_prompt, first_generation

from lens_audio import AudioPrompt, KeyValueCache
from lens_audio.analysis.attention import audio_attention
from lens_audio.data.answers import choice_log_probs
from lens_audio.model.rotary import logn_scale, ntk_alpha

MODEL = first_generation()  # seq_length 16: 3 times the base beyond 16 tokens, 7 beyond 32, 15 ...
NEAR = {"atol": 2e-5, "rtol": 0}


def tokens_of(n, seed=0, rows=1):
    return torch.randint(4, SIZES.d_vocab, (rows, n), generator=torch.Generator().manual_seed(seed))


def generated(prompt, n=40, **options):
    options = {"return_type": "tokens", "verbose": False, "stop_at_eos": False} | options
    return MODEL.generate(prompt, n, **options)


@pytest.mark.parametrize(
    ("length", "alpha"), [(1, 1), (16, 1), (17, 3), (32, 3), (33, 7), (64, 7), (65, 15)]
)
def test_ntk_alpha(length, alpha):
    assert ntk_alpha(MODEL.cfg, torch.tensor([length])).tolist() == [alpha]


def test_logn_scale_is_one_up_to_seq_length_and_two_at_its_square():
    scale = logn_scale(MODEL.cfg, torch.tensor([[0, 15, 255]]), torch.float64).flatten()
    torch.testing.assert_close(scale, torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))


def test_rotated_queries_carry_the_log_n_scale():
    tokens = tokens_of(40)
    names = ["blocks.1.attn.hook_q", "blocks.1.attn.hook_rot_q"]
    _, cache = MODEL.run_with_cache(tokens, names_filter=names)
    before, after = (cache[name].norm(dim=-1) for name in names)
    scale = torch.log(torch.arange(1, 41.0)) / torch.log(torch.tensor(16.0))
    torch.testing.assert_close(after, before * scale.clamp(min=1)[None, :, None])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_hooked_attention_is_the_reference_too(name):
    """Scores and patterns, which the reference never shows, lead to its logits."""
    hooks = [(lambda n: n.endswith("hook_pattern"), lambda x, hook: x)]
    logits = golden_model().run_with_hooks(golden_prompt(name), fwd_hooks=hooks)
    torch.testing.assert_close(logits, golden_case(name)["logits"], atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", ["beyond_seq_length", "text_long"])
@torch.no_grad()
def test_the_golden_cases_read_in_pieces(name):
    """Over a cache the last logits are the reference's of the whole sequence."""
    model, prompt = golden_model(), golden_prompt(name)
    resid = model(prompt, stop_at_layer=0)
    cache = KeyValueCache(model.cfg.n_layers)
    for piece in resid.split(SEQ_LENGTH - 7, dim=1):
        last = model(piece, start_at_layer=0, past_kv_cache=cache)[:, -1]
    torch.testing.assert_close(last, golden_case(name)["logits"][:, -1], atol=5e-4, rtol=0)


@pytest.mark.parametrize("n_text", [3, 10, 20])
@pytest.mark.parametrize("clips", [[], [9], [23, 7]])
def test_generation_over_a_cache_equals_generation_without(n_text, clips):
    prompt = edged_prompt(layout=Layout([n_text], [clips]))
    assert torch.equal(generated(prompt), generated(prompt, use_past_kv_cache=False))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), n_text=st.lists(st.integers(3, 20), min_size=2, max_size=3))
def test_rows_of_a_batch_that_cross_at_other_steps(seed, n_text):
    """Each row's answer is that of the row alone: its own length counts, not the batch's."""
    layout = Layout(n_text, [[]] * len(n_text))
    prompt = edged_prompt(layout=layout, seed=seed)
    found = generated(prompt, 20)
    assert torch.equal(found, generated(prompt, 20, use_past_kv_cache=False))
    for row, (tokens, mask) in enumerate(zip(prompt.tokens, prompt.attention_mask, strict=True)):
        alone = AudioPrompt.from_tensors(tokens[mask][None], audio_token_id=-1)
        assert torch.equal(found[row], generated(alone, 20)[0])


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_a_padded_row_equals_the_row_alone(padding_side):
    prompt = edged_prompt(layout=Layout([5, 30, 17], [[]] * 3, padding_side))
    logits = MODEL(prompt)
    for row, mask in enumerate(prompt.attention_mask):
        torch.testing.assert_close(logits[row, mask], MODEL(prompt.tokens[row, mask])[0], **NEAR)


@torch.no_grad()
def test_rows_with_equal_clips_equal_the_rows_alone():
    prompt = edged_prompt(layout=Layout([5, 30], [[23], [23]]))
    logits = MODEL(prompt)
    for row, mask in enumerate(prompt.attention_mask):
        clip = slice(row, row + 1)
        alone = AudioPrompt.from_tensors(
            prompt.tokens[row, mask][None],
            prompt.mel[clip],
            prompt.mel_lengths[clip],
            audio_mask=prompt.audio_mask[row, mask][None],
        )
        torch.testing.assert_close(logits[row, mask], MODEL(alone)[0], **NEAR)


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 69), max_size=4), frozen=st.booleans())
@torch.no_grad()
def test_any_cut_gives_the_last_logits_of_one_forward(cuts, frozen):
    tokens, cache, start = tokens_of(70, rows=2), KeyValueCache(SIZES.n_layers), 0
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :9] = False
    for end in [*sorted(cuts), 70]:
        if end == 70 and frozen:
            cache.freeze()
        piece = slice(start, end)
        found = MODEL(tokens[:, piece], attention_mask=mask[:, piece], past_kv_cache=cache)
        assert found.shape[1] == end - start
        start = end
    expected = MODEL(tokens, attention_mask=mask)
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], **NEAR)
    assert cache.length == (max(cuts, default=0) if frozen else 70)


@torch.no_grad()
def test_a_hook_that_fails_while_reading_again_leaves_the_cache_as_it_was():
    tokens, cache = tokens_of(30), KeyValueCache(SIZES.n_layers)
    MODEL(tokens[:, :16], past_kv_cache=cache)

    def fail(x, hook):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        MODEL.run_with_hooks(
            tokens[:, 16:], past_kv_cache=cache, fwd_hooks=[("blocks.1.hook_resid_mid", fail)]
        )
    assert cache.length == 16
    found = MODEL(tokens[:, 16:], past_kv_cache=cache)
    torch.testing.assert_close(found, MODEL(tokens)[:, 16:], **NEAR)


@torch.no_grad()
def test_cutting_the_cache_forgets_what_was_cut():
    tokens, cache = tokens_of(30), KeyValueCache(SIZES.n_layers)
    MODEL(tokens[:, :14], past_kv_cache=cache)
    cache.cut(10)
    found = MODEL(tokens[:, 10:], past_kv_cache=cache)
    torch.testing.assert_close(found, MODEL(tokens)[:, 10:], **NEAR)


@pytest.mark.parametrize("layout", [Layout([5], [[23]]), Layout([12, 4], [[], [9]])])
def test_activations_of_a_generation_are_those_of_the_last_whole_forward(layout):
    prompt = edged_prompt(layout=layout)
    cached = generated(prompt, 12, return_cache=True)
    whole = generated(prompt, 12, return_cache=True, use_past_kv_cache=False)
    assert torch.equal(cached[0], whole[0])
    assert set(cached[1]) == set(whole[1])
    same = prompt.tokens.shape[1] + 11
    for name in (
        "hook_embed",
        "ln_final.hook_scale",
        "unembed.hook_out",
        "blocks.1.hook_resid_post",
    ):
        assert cached[1][name].shape[1] == same


@torch.no_grad()
def test_hooks_act_as_without_a_cache():
    prompt = edged_prompt(layout=Layout([9], [[]]))
    direction = torch.randn(SIZES.d_model, generator=torch.Generator().manual_seed(3))
    hooks = [("blocks.0.hook_resid_post", lambda x, hook: x + direction)]
    with MODEL.hooks(fwd_hooks=hooks):
        found = generated(prompt), generated(prompt, use_past_kv_cache=False)
    assert torch.equal(*found)
    assert not torch.equal(found[0], generated(prompt))


@torch.no_grad()
def test_audio_attention_is_the_pattern():
    prompt = edged_prompt(layout=Layout([30, 7], [[23], [39]]))
    _, cache = MODEL.run_with_cache(prompt)
    found = audio_attention(MODEL, prompt)
    for row, is_audio in enumerate(prompt.audio_mask):
        for layer in range(SIZES.n_layers):
            pattern = cache["pattern", layer][row, :, -1, is_audio]
            torch.testing.assert_close(found[row, layer, :, : pattern.shape[1]], pattern, **NEAR)


class Letters:
    """A tokenizer of one character a token."""

    def encode(self, text, **_):
        return [4 + ord(letter) % 50 for letter in text]


@torch.no_grad()
def test_answers_that_cross_seq_length():
    prompt = edged_prompt(layout=Layout([4], [[39]]))
    n, choices = prompt.tokens.shape[1], ["abcdef", "b", "cb"]
    assert n < 16 < n + 5
    model = first_generation()
    model.tokenizer = Letters()
    found = choice_log_probs(model, prompt, choices)[0]
    for choice, log_prob in zip(choices, found, strict=True):
        ids = torch.tensor([Letters().encode(choice)])
        longer = torch.cat([prompt.tokens, ids[:, :-1]], dim=1)
        n_more = longer.shape[1] - n
        extended = replace(
            prompt,
            tokens=longer,
            attention_mask=torch.ones_like(longer, dtype=torch.bool),
            audio_mask=torch.nn.functional.pad(prompt.audio_mask, (0, n_more)),
        )
        first = model(prompt)[:, -1:]
        rest = model(extended)[:, n:]
        log_probs = torch.cat([first, rest], dim=1).log_softmax(-1)
        expected = log_probs.gather(-1, ids[..., None]).sum()
        torch.testing.assert_close(log_prob, expected, **NEAR)
