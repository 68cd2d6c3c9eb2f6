"""Reading a prompt in pieces over a key-value cache equals reading it at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import AudioPrompt, KeyValueCache
from lens_audio.model.shared_prefix import Continuations

SIZES = Sizes()
MODEL = hooked_model(SIZES)
PROMPT = make_prompt(SIZES, Layout([9, 5], [[], []], "left"))


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
def read_in_pieces(cuts, cache):
    pieces, start = [], 0
    for end in [*sorted(cuts), PROMPT.tokens.shape[1]]:
        tokens, mask = PROMPT.tokens[:, start:end], PROMPT.attention_mask[:, start:end]
        pieces.append(MODEL(tokens, attention_mask=mask, past_kv_cache=cache))
        start = end
    return torch.cat(pieces, dim=1)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, 8)))
def test_any_cut_gives_the_logits_of_one_forward(cuts):
    found = read_in_pieces(cuts, KeyValueCache(SIZES.n_layers))
    real = PROMPT.attention_mask
    with torch.no_grad():
        close(found[real], MODEL(PROMPT)[real])


@torch.no_grad()
def test_pattern_over_a_cache_is_the_last_rows_of_the_full_pattern():
    cache = KeyValueCache.init_cache(MODEL.cfg)
    name = "blocks.1.attn.hook_pattern"
    mask = PROMPT.attention_mask
    _, full = MODEL.run_with_cache(PROMPT, names_filter=name)
    MODEL(PROMPT.tokens[:, :5], attention_mask=mask[:, :5], past_kv_cache=cache)
    _, last = MODEL.run_with_cache(
        PROMPT.tokens[:, 5:], attention_mask=mask[:, 5:], past_kv_cache=cache, names_filter=name
    )
    close(last[name], full[name][:, :, 5:])


@torch.no_grad()
def test_an_attention_mask_may_cover_the_past_too():
    cache = KeyValueCache(SIZES.n_layers)
    mask = PROMPT.attention_mask
    MODEL(PROMPT.tokens[:, :6], attention_mask=mask[:, :6], past_kv_cache=cache)
    found = MODEL(PROMPT.tokens[:, 6:], attention_mask=mask, past_kv_cache=cache)
    close(found, MODEL(PROMPT)[:, 6:])


@torch.no_grad()
def test_audio_is_read_over_the_cache_that_follows_it():
    prompt = make_prompt(SIZES, Layout([9], [[23]]))
    cache = KeyValueCache(SIZES.n_layers)
    head = AudioPrompt.from_tensors(
        prompt.tokens[:, :-3], prompt.mel, prompt.mel_lengths, audio_token_id=3
    )
    MODEL(head, past_kv_cache=cache)
    close(MODEL(prompt.tokens[:, -3:], past_kv_cache=cache), MODEL(prompt)[:, -3:])


@torch.no_grad()
def test_a_frozen_cache_stays_as_it_was():
    cache = KeyValueCache(SIZES.n_layers)
    MODEL(PROMPT.tokens[:, :5], past_kv_cache=cache)
    before = [entry.past_keys.clone() for entry in cache.entries]
    cache.freeze()
    MODEL(PROMPT.tokens[:, 5:], past_kv_cache=cache)
    assert cache.length == 5
    for entry, keys in zip(cache.entries, before, strict=True):
        assert torch.equal(entry.past_keys, keys)


@torch.no_grad()
def test_a_frozen_cache_can_be_continued_twice():
    cache = KeyValueCache(SIZES.n_layers)
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10]])
    MODEL(tokens[:, :3], past_kv_cache=cache)
    cache.freeze()
    first = MODEL(tokens[:, 3:], past_kv_cache=cache)
    close(MODEL(tokens[:, 3:], past_kv_cache=cache), first)


@torch.no_grad()
def test_an_unfrozen_cache_grows_again():
    cache = KeyValueCache(SIZES.n_layers)
    tokens = torch.tensor([[5, 6, 7, 8]])
    MODEL(tokens[:, :3], past_kv_cache=cache)
    cache.freeze()
    cache.unfreeze()
    MODEL(tokens[:, 3:], past_kv_cache=cache)
    assert cache.length == cache[0].past_keys.shape[1] == 4


def test_gradients_flow_through_the_cache():
    cache = KeyValueCache(SIZES.n_layers)
    tokens = torch.tensor([[5, 6, 7, 8]])
    MODEL(tokens[:, :2], past_kv_cache=cache)
    MODEL(tokens[:, 2:3], past_kv_cache=cache)
    loss = MODEL(tokens[:, 3:], past_kv_cache=cache)[0, -1, 7]
    (grad,) = torch.autograd.grad(loss, MODEL.blocks[0].attn.k_proj.weight)
    (expected,) = torch.autograd.grad(MODEL(tokens)[0, -1, 7], MODEL.blocks[0].attn.k_proj.weight)
    torch.testing.assert_close(grad, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_hook_that_fails_leaves_the_cache_as_long_as_its_mask():
    cache = KeyValueCache(SIZES.n_layers)
    tokens = torch.tensor([[5, 6, 7, 8]])
    MODEL(tokens[:, :2], past_kv_cache=cache)

    def fail(value, hook):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), MODEL.hooks([("blocks.1.hook_resid_pre", fail)]):
        MODEL(tokens[:, 2:], past_kv_cache=cache)
    close(MODEL(tokens[:, 2:], past_kv_cache=cache), MODEL(tokens)[:, 2:])


@torch.no_grad()
@pytest.mark.parametrize("begun", [False, True], ids=["empty", "begun"])
@pytest.mark.parametrize(
    ("run", "hook"),
    [
        ({}, "hook_embed"),
        ({}, "blocks.1.hook_resid_mid"),
        ({}, "ln_final.hook_scale"),
        ({}, "unembed.hook_out"),
        ({"logits_to_keep": 99}, None),
        ({"return_type": "loss", "attention_mask": torch.tensor([[0, 1, 0], [0, 0, 1]])}, None),
    ],
)
@torch.no_grad()
def test_a_forward_that_fails_anywhere_leaves_the_cache_as_it_was(run, hook, begun):
    def fail(activation, hook):
        raise ValueError("on purpose")

    cache, new = KeyValueCache(SIZES.n_layers), PROMPT.tokens[:, :3]
    if begun:
        MODEL(PROMPT, past_kv_cache=cache)
    expected = MODEL(new, past_kv_cache=cache)
    cache.cut(PROMPT.tokens.shape[1] if begun else 0)
    fwd_hooks = [] if hook is None else [(hook, fail)]
    with MODEL.hooks(fwd_hooks=fwd_hooks), pytest.raises(ValueError, match=r"purpose|keep|no loss"):
        MODEL(new, past_kv_cache=cache, **run)
    close(MODEL(new, past_kv_cache=cache), expected)
    kept = cache.first.n_positions, cache.first.prompt
    assert kept == ((9, PROMPT) if begun else (3, None))


def test_keys_kept_of_a_step_are_not_a_window_on_the_next():
    """A cached activation must not change when the cache grows."""
    cache = KeyValueCache(SIZES.n_layers)
    tokens = torch.tensor([[5, 6, 7, 8]])
    name = "blocks.0.attn.hook_rot_k"
    _, first = MODEL.run_with_cache(tokens[:, :2], past_kv_cache=cache, names_filter=name)
    kept = first[name].clone()
    MODEL(tokens[:, 2:3], past_kv_cache=cache)
    MODEL(tokens[:, 3:], past_kv_cache=cache)
    assert torch.equal(first[name], kept)


# Continuations: many rows behind each example.


@torch.no_grad()
def continued(rows, steps):
    """Logits of `steps` tokens behind the prompt, of as many copies of it as rows ask for."""
    past = KeyValueCache(SIZES.n_layers)
    MODEL(PROMPT, past_kv_cache=past)
    cache = Continuations.of(past)
    cache.select(rows)
    return cache, [MODEL(token[:, None], past_kv_cache=cache)[:, 0] for token in steps.T]


@torch.no_grad()
@pytest.mark.parametrize("hooked", [False, True])
def test_many_continuations_are_each_what_a_cache_of_its_own_gives(hooked):
    tokens = torch.arange(12).view(6, 2)  # three cells of two examples
    pattern = [("blocks.0.attn.hook_pattern", lambda pattern, hook: None)] if hooked else []
    with MODEL.hooks(fwd_hooks=pattern):
        _, found = continued(torch.arange(2).repeat(3), tokens)
    for cell in range(3):
        past = KeyValueCache(SIZES.n_layers)
        MODEL(PROMPT, past_kv_cache=past)
        for step in range(2):
            mine = tokens[2 * cell : 2 * cell + 2, step : step + 1]
            close(found[step][2 * cell : 2 * cell + 2], MODEL(mine, past_kv_cache=past)[:, 0])


@torch.no_grad()
def test_continuations_branch_where_rows_are_selected():
    cache, _ = continued(torch.arange(2), torch.tensor([[1], [2]]))
    cache.select(torch.tensor([0, 1, 0, 1]))
    branched = MODEL(torch.tensor([[3], [3], [4], [4]]), past_kv_cache=cache)[:, 0]
    for cell, token in enumerate((3, 4)):
        _, alone = continued(torch.arange(2), torch.tensor([[1, token], [2, token]]))
        close(branched[2 * cell : 2 * cell + 2], alone[1])


@torch.no_grad()
def test_frozen_continuations_keep_nothing_and_cut_ones_forget():
    cache, _ = continued(torch.arange(2), torch.tensor([[1], [2]]))
    n, more = cache.length, torch.tensor([[3], [3]])
    cache.freeze()
    first = MODEL(more, past_kv_cache=cache)
    assert cache.length == n
    cache.unfreeze()
    close(MODEL(more, past_kv_cache=cache), first)
    cache.cut(n)
    close(MODEL(more, past_kv_cache=cache), first)


@torch.no_grad()
def test_a_forward_to_the_last_layer_fills_the_cache_and_gives_the_stream_before_the_logits():
    past, plain = KeyValueCache(SIZES.n_layers), KeyValueCache(SIZES.n_layers)
    resid = MODEL(PROMPT, past_kv_cache=past, stop_at_layer=SIZES.n_layers)
    logits = MODEL(PROMPT, past_kv_cache=plain)
    close(MODEL.unembed(MODEL.ln_final(resid)), logits)
    token = torch.tensor([[1], [1]])
    close(MODEL(token, past_kv_cache=past), MODEL(token, past_kv_cache=plain))
