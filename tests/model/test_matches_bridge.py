"""Every hook that TransformerLens's TransformerBridge has by the same name agrees with it."""

import pytest
import torch
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt
from transformer_lens.model_bridge import TransformerBridge

from lens_audio import HookedAudioTransformer

SIZES = Sizes(kv_heads=2)

# What HookedTransformer 3.9.0 calls a block's hook points.
NAMES_IN_A_BLOCK = """
hook_resid_pre hook_attn_out hook_resid_mid hook_mlp_out hook_resid_post
ln1.hook_scale ln1.hook_normalized ln2.hook_scale ln2.hook_normalized
attn.hook_q attn.hook_k attn.hook_v attn.hook_rot_q attn.hook_rot_k
attn.hook_attn_scores attn.hook_pattern attn.hook_z
mlp.hook_pre mlp.hook_pre_linear mlp.hook_post
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    hf = hf_model(SIZES)
    hf.save_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    return HookedAudioTransformer.from_hf(hf), bridge


def both_caches(models, layout):
    ours, bridge = models
    prompt = make_prompt(SIZES, layout)
    inputs = hf_inputs(prompt)
    tokens = inputs.pop("input_ids")
    inputs.pop("position_ids")
    with torch.no_grad():
        _, expected = bridge.run_with_cache(tokens, **inputs)
        _, cache = ours.run_with_cache(prompt)
    return prompt, cache, expected


LAYOUTS = {
    "text": Layout([7], [[]]),
    "audio": Layout([7], [[23]]),
    "padded": Layout([7, 5], [[23], [9, 12]], "left"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shared_hooks_agree(models, layout):
    prompt, cache, expected = both_caches(models, LAYOUTS[layout])
    shared = [name for name in cache if name in expected and name != "hook_embed"]
    assert {f"blocks.1.{name}" for name in NAMES_IN_A_BLOCK.split()} < set(shared)
    real = prompt.attention_mask
    for name in shared:
        found, value = cache[name], expected[name]
        assert found.shape == value.shape, name
        if name.endswith(("hook_pattern", "hook_attn_scores")):
            causal = torch.ones_like(found[0, 0], dtype=torch.bool).tril()
            visible = (real[:, :, None] & real[:, None, :] & causal)[:, None].expand_as(found)
            found, value = found[visible], value[visible]
        elif not name.startswith("audio"):
            found, value = found[real], value[real]
        torch.testing.assert_close(
            found, value, atol=1e-4, rtol=0, msg=lambda t, n=name: f"{n}: {t}"
        )


def test_hook_embed_agrees_where_there_is_text(models):
    prompt, cache, expected = both_caches(models, LAYOUTS["padded"])
    text = prompt.attention_mask & ~prompt.audio_mask
    torch.testing.assert_close(
        cache["hook_embed"][text], expected["hook_embed"][text], atol=0, rtol=0
    )


def test_hook_points_of_a_block_are_those_of_hooked_transformer(models):
    _, cache, _ = both_caches(models, LAYOUTS["text"])
    ours = {name.removeprefix("blocks.0.") for name in cache if name.startswith("blocks.0.")}
    assert ours == set(NAMES_IN_A_BLOCK.split())


def test_shapes_are_those_of_hooked_transformer(models):
    prompt, cache, _ = both_caches(models, LAYOUTS["padded"])
    batch, pos = prompt.tokens.shape
    shapes = {
        "attn.hook_q": (batch, pos, SIZES.n_heads, SIZES.d_head),
        "attn.hook_k": (batch, pos, SIZES.kv_heads, SIZES.d_head),
        "attn.hook_rot_k": (batch, pos, SIZES.kv_heads, SIZES.d_head),
        "attn.hook_v": (batch, pos, SIZES.kv_heads, SIZES.d_head),
        "attn.hook_z": (batch, pos, SIZES.n_heads, SIZES.d_head),
        "attn.hook_pattern": (batch, SIZES.n_heads, pos, pos),
        "mlp.hook_post": (batch, pos, SIZES.d_mlp),
        "ln1.hook_scale": (batch, pos, 1),
        "hook_resid_post": (batch, pos, SIZES.d_model),
    }
    assert {name: tuple(cache[f"blocks.0.{name}"].shape) for name in shapes} == shapes
