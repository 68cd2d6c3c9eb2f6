"""Every sweep of transformer_lens.patching, inside `listening_to`, equals patching by hand."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt
from transformer_lens import patching

SIZES = Sizes(n_heads=4, kv_heads=4)
MODEL = hooked_model(SIZES)
LAYOUT = Layout([4], [[10]])
CLEAN, CORRUPTED = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
N_POS = CLEAN.tokens.shape[1]


def metric(logits):
    return logits[0, -1, 11] - logits[0, -1, 12]


@pytest.fixture(scope="module")
def clean():
    with torch.no_grad():
        return MODEL.run_with_cache(CLEAN)[1]


@torch.no_grad()
def by_hand(name, clean, index):
    """The metric of the corrupted run with one part of an activation from the clean one."""

    def patch(value, hook):
        value = value.clone()
        value[index] = clean[name][index]
        return value

    return metric(MODEL.run_with_hooks(CORRUPTED, fwd_hooks=[(name, patch)]))


@torch.no_grad()
def sweep(function, clean, **options):
    with MODEL.listening_to(CORRUPTED):
        return function(MODEL, CORRUPTED.tokens, clean, metric, **options)


def assert_cells(found, site, clean, cells):
    for cell, index in cells.items():
        expected = by_hand(site.format(cell[0]), clean, index)
        torch.testing.assert_close(found[cell], expected, atol=1e-5, rtol=0)


ALL = slice(None)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out"])
def test_sweep_over_layers_and_positions(site, clean):
    found = sweep(getattr(patching, f"get_act_patch_{site}"), clean)
    assert found.shape == (SIZES.n_layers, N_POS)
    cells = {(l, p): (ALL, p) for l, p in [(0, 3), (1, 2), (1, N_POS - 1)]}
    assert_cells(found, f"blocks.{{}}.hook_{site}", clean, cells)


@pytest.mark.parametrize(("site", "hook"), [("out", "z"), ("q", "q"), ("k", "k"), ("v", "v")])
def test_sweep_over_heads_at_each_position(site, hook, clean):
    found = sweep(getattr(patching, f"get_act_patch_attn_head_{site}_by_pos"), clean)
    assert found.shape == (SIZES.n_layers, N_POS, SIZES.n_heads)
    cells = {(l, p, h): (ALL, p, h) for l, p, h in [(0, 3, 1), (1, 4, 3), (1, N_POS - 1, 0)]}
    assert_cells(found, f"blocks.{{}}.attn.hook_{hook}", clean, cells)


@pytest.mark.parametrize(("site", "hook"), [("out", "z"), ("q", "q"), ("k", "k"), ("v", "v")])
def test_sweep_over_heads_at_all_positions(site, hook, clean):
    found = sweep(getattr(patching, f"get_act_patch_attn_head_{site}_all_pos"), clean)
    assert found.shape == (SIZES.n_layers, SIZES.n_heads)
    cells = {(l, h): (ALL, ALL, h) for l, h in [(0, 1), (1, 3)]}
    assert_cells(found, f"blocks.{{}}.attn.hook_{hook}", clean, cells)


def test_sweep_over_the_patterns_of_heads(clean):
    found = sweep(patching.get_act_patch_attn_head_pattern_all_pos, clean)
    cells = {(l, h): (ALL, h) for l, h in [(0, 1), (1, 3)]}
    assert_cells(found, "blocks.{}.attn.hook_pattern", clean, cells)


def test_sweep_over_the_pattern_rows_of_heads(clean):
    found = sweep(patching.get_act_patch_attn_head_pattern_by_pos, clean)
    cells = {(1, h, p): (ALL, h, p) for p, h in [(4, 1), (N_POS - 1, 3)]}
    assert_cells(found, "blocks.{}.attn.hook_pattern", clean, cells)


def test_sweep_over_the_pattern_entries_of_heads(clean):
    found = sweep(patching.get_act_patch_attn_head_pattern_dest_src_pos, clean)
    cells = {(1, h, q, k): (ALL, h, q, k) for h, q, k in [(1, 4, 2), (3, N_POS - 1, 0)]}
    assert_cells(found, "blocks.{}.attn.hook_pattern", clean, cells)


def test_sweep_over_every_kind_of_head_output(clean):
    found = sweep(patching.get_act_patch_attn_head_all_pos_every, clean)
    separate = sweep(patching.get_act_patch_attn_head_out_all_pos, clean)
    torch.testing.assert_close(found[0], separate, atol=1e-5, rtol=0)
    assert found.shape == (5, SIZES.n_layers, SIZES.n_heads)


def test_sweep_over_every_kind_of_head_output_at_each_position(clean):
    found = sweep(patching.get_act_patch_attn_head_by_pos_every, clean)
    separate = sweep(patching.get_act_patch_attn_head_q_by_pos, clean)
    torch.testing.assert_close(found[1], separate, atol=1e-5, rtol=0)


def test_sweep_over_every_kind_of_block_output(clean):
    found = sweep(patching.get_act_patch_block_every, clean)
    separate = sweep(patching.get_act_patch_resid_pre, clean)
    torch.testing.assert_close(found[0], separate, atol=1e-5, rtol=0)


def test_grouped_keys_are_swept_by_their_own_heads():
    sizes = Sizes(n_heads=4, kv_heads=2)
    model = hooked_model(sizes)
    clean_prompt, corrupted = make_prompt(sizes, LAYOUT, 1), make_prompt(sizes, LAYOUT, 2)
    with torch.no_grad(), model.listening_to(corrupted):
        _, cache = model.run_with_cache(clean_prompt)
        found = patching.get_act_patch_attn_head_k_all_pos(model, corrupted.tokens, cache, metric)
    assert found.shape == (sizes.n_layers, 2)


@pytest.mark.parametrize("component", ["q", "k", "v"])
@torch.no_grad()
def test_direct_path_from_a_head_to_a_later_one(component, clean):
    _, corrupted = MODEL.run_with_cache(CORRUPTED)
    with MODEL.listening_to(CORRUPTED):
        found = patching.get_act_patch_direct_path(
            MODEL, CORRUPTED.tokens, clean, corrupted, metric, 0, 1, component, verbose=False
        )
    name = "blocks.0.attn.hook_z"
    delta = (clean[name] - corrupted[name])[:, :, 1] @ MODEL.W_O[0, 1]
    # By hand: one head's q (k, v) of the later layer from a residual that holds the difference.
    resid = corrupted["resid_pre", 1] + delta
    part = getattr(MODEL.blocks[1].attn, f"{component}_proj")
    moved = part(MODEL.blocks[1].ln1(resid)).unflatten(-1, (SIZES.n_heads, -1))

    def patch(value, hook):
        value = value.clone()
        value[:, :, 2] = moved[:, :, 2]
        return value

    site = f"blocks.1.attn.hook_{component}"
    expected = metric(MODEL.run_with_hooks(CORRUPTED, fwd_hooks=[(site, patch)]))
    torch.testing.assert_close(found[1, 2], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_inside_listening_to_tokens_mean_the_prompt():
    with MODEL.listening_to(CLEAN):
        torch.testing.assert_close(MODEL(CLEAN.tokens), MODEL(CLEAN), atol=1e-5, rtol=0)


@torch.no_grad()
def test_inside_listening_to_other_text_hears_the_same_audio():
    other = CLEAN.tokens.clone()
    other[0, -1] = 19
    with MODEL.listening_to(CLEAN):
        found = MODEL(other)
    torch.testing.assert_close(found, MODEL(replace(CLEAN, tokens=other)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_inside_listening_to_the_audio_is_encoded_once(monkeypatch):
    encoder, n_runs = MODEL.audio_encoder, 0
    forward = type(encoder).forward

    def count(self, *args, **kwargs):
        nonlocal n_runs
        n_runs += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(encoder), "forward", count)
    with MODEL.listening_to(CLEAN):
        for _ in range(3):
            MODEL(CLEAN.tokens)
    assert n_runs == 1


@torch.no_grad()
def test_inside_listening_to_hooks_on_the_encoder_still_act():
    def silence(value, hook):
        return torch.zeros_like(value)

    hooks = [("audio_encoder.hook_mel", silence)]
    expected = MODEL.run_with_hooks(CLEAN, fwd_hooks=hooks)
    with MODEL.listening_to(CLEAN):
        MODEL(CLEAN.tokens)
        found = MODEL.run_with_hooks(CLEAN.tokens, fwd_hooks=hooks)
        after = MODEL(CLEAN.tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(after, MODEL(CLEAN), atol=1e-5, rtol=0)


@torch.no_grad()
def test_listening_to_can_be_nested():
    with MODEL.listening_to(CLEAN):
        with MODEL.listening_to(CORRUPTED):
            inner = MODEL(CORRUPTED.tokens)
        outer = MODEL(CLEAN.tokens)
    torch.testing.assert_close(inner, MODEL(CORRUPTED), atol=1e-5, rtol=0)
    torch.testing.assert_close(outer, MODEL(CLEAN), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_copy_made_inside_listening_to_does_not_listen():
    model, prompt = hooked_model(), make_prompt()
    tokens = torch.tensor([[5, 6, 7]])
    with model.listening_to(prompt):
        copied = deepcopy(model)
    assert torch.equal(copied(tokens), model(tokens))


def test_after_listening_to_tokens_are_text_again():
    with pytest.raises(RuntimeError), MODEL.listening_to(CLEAN):
        raise RuntimeError("no")
    text = torch.tensor([[5, 6, 7]])
    assert MODEL(text).shape == (1, 3, SIZES.d_vocab)
