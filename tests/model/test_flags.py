"""TransformerLens's flags leave the logits alone; their hooks have HookedTransformer's shapes."""

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

LAYOUT = Layout([7, 4], [[23], []], "left")
FLAGS = {
    "use_attn_result": {"attn.hook_result": "result"},
    "use_split_qkv_input": {"hook_q_input": "query", "hook_k_input": "key", "hook_v_input": "key"},
    "use_attn_in": {"hook_attn_in": "query"},
    "use_hook_mlp_in": {"hook_mlp_in": "resid"},
}
CASES = [(flag, 4) for flag in FLAGS] + [(flag, 2) for flag in FLAGS if flag != "use_attn_in"]


def flagged(flag, kv_heads):
    sizes = Sizes(kv_heads=kv_heads)
    model = hooked_model(sizes)
    getattr(model, f"set_{flag}")(True)
    return model, hooked_model(sizes), make_prompt(sizes, LAYOUT)


@pytest.mark.parametrize(("flag", "kv_heads"), CASES)
@torch.no_grad()
def test_logits_stay(flag, kv_heads):
    model, plain, prompt = flagged(flag, kv_heads)
    torch.testing.assert_close(model(prompt), plain(prompt), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("flag", "kv_heads"), CASES)
@torch.no_grad()
def test_hooks_have_the_shapes_of_hooked_transformer(flag, kv_heads):
    model, _, prompt = flagged(flag, kv_heads)
    _, cache = model.run_with_cache(prompt)
    batch, pos = prompt.tokens.shape
    shapes = {
        "result": (batch, pos, 4, 32),
        "query": (batch, pos, 4, 32),
        "key": (batch, pos, kv_heads, 32),
        "resid": (batch, pos, 32),
    }
    for name, kind in FLAGS[flag].items():
        assert tuple(cache[f"blocks.1.{name}"].shape) == shapes[kind]


@pytest.mark.parametrize(("flag", "kv_heads"), CASES)
@torch.no_grad()
def test_a_hook_needs_its_flag(flag, kv_heads):
    plain = flagged(flag, kv_heads)[1]
    name = f"blocks.0.{next(iter(FLAGS[flag]))}"
    with pytest.raises(ValueError, match=f"set_{flag}"):
        plain.add_hook(name, lambda value, hook: None)


@torch.no_grad()
def test_results_of_the_heads_sum_to_what_attention_writes():
    model, _, prompt = flagged("use_attn_result", 2)
    _, cache = model.run_with_cache(prompt)
    total = cache["blocks.0.attn.hook_result"].sum(2) + model.b_O[0]
    torch.testing.assert_close(total, cache["attn_out", 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["q", "k", "v"])
@torch.no_grad()
def test_one_heads_input_moves_only_that_head(part):
    model, _, prompt = flagged("use_split_qkv_input", 4)
    seen = {}

    def move(value, hook):
        value = value.clone()
        value[:, :, 2] += 1
        return value

    site = f"blocks.0.attn.hook_{part}"
    _, before = model.run_with_cache(prompt, names_filter=site)
    model.run_with_hooks(
        prompt,
        fwd_hooks=[
            (f"blocks.0.hook_{part}_input", move),
            (site, lambda value, hook: seen.update(value=value)),
        ],
    )
    moved = (seen["value"] - before[site]).abs().amax((0, 1, 3)) > 1e-4
    assert moved.tolist() == [False, False, True, False]


@torch.no_grad()
def test_the_mlps_input_can_be_moved_apart_from_the_stream():
    model, _, prompt = flagged("use_hook_mlp_in", 2)
    site = "blocks.0.hook_resid_mid"
    _, before = model.run_with_cache(prompt, names_filter=site)
    seen = {}
    model.run_with_hooks(
        prompt,
        fwd_hooks=[
            ("blocks.0.hook_mlp_in", lambda value, hook: value.zero_()),
            (site, lambda value, hook: seen.update(value=value)),
        ],
    )
    assert torch.equal(seen["value"], before[site])


def test_the_two_forks_exclude_each_other():
    model = hooked_model(Sizes(kv_heads=4))
    model.set_use_attn_in(True)
    with pytest.raises(ValueError, match="exclude each other"):
        model.set_use_split_qkv_input(True)


def test_attn_in_is_refused_with_grouped_keys():
    with pytest.raises(ValueError, match="split_qkv_input"):
        hooked_model(Sizes(kv_heads=2)).set_use_attn_in(True)


def test_the_encoder_has_its_own_flags():
    model = hooked_model()
    model.audio_encoder.set_use_attn_result(True)
    prompt = make_prompt()
    with torch.no_grad():
        _, cache = model.run_with_cache(prompt)
    assert "audio_encoder.blocks.0.attn.hook_result" in cache
    assert "blocks.0.attn.hook_result" not in cache
