"""Half precision: no further from float32 than transformers in the same precision."""

import pytest
import torch
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt

from lens_audio import HookedAudioTransformer

SIZES = Sizes(d_model=64, n_heads=8, kv_heads=4, n_layers=3, d_mlp=150, d_vocab=90)


def errors(dtype: torch.dtype, attn: str, seed: int) -> tuple[float, float]:
    """Mean distance to transformers' float32 logits: of transformers', and of ours."""
    layout = Layout([9, 6], [[31], [8, 20]])
    prompt = make_prompt(SIZES, layout, seed)
    hf = hf_model(SIZES, seed, attn)
    exact = hf(**hf_inputs(prompt)).logits
    hf = hf.to(dtype)
    theirs = hf(**hf_inputs(prompt)).logits
    ours = HookedAudioTransformer.from_hf(hf)(prompt)
    assert ours.dtype == dtype
    real = prompt.attention_mask
    return tuple(float((x.float() - exact)[real].abs().mean()) for x in (theirs, ours))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_logits_are_no_further_from_float32_than_transformers_are(dtype, attn):
    pairs = [errors(dtype, attn, seed) for seed in range(12)]
    theirs, ours = (sum(side) for side in zip(*pairs, strict=True))
    assert ours <= 1.1 * theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_hooked_run_is_no_further_from_float32_than_transformers_are(dtype):
    prompt = make_prompt(SIZES, Layout([9, 6], [[31], [8, 20]]))
    total_theirs = total_ours = 0.0
    for seed in range(8):
        hf = hf_model(SIZES, seed)
        exact = hf(**hf_inputs(prompt)).logits
        hf = hf.to(dtype)
        theirs = hf(**hf_inputs(prompt)).logits
        ours, _ = HookedAudioTransformer.from_hf(hf).run_with_cache(prompt)
        real = prompt.attention_mask
        total_theirs += float((theirs.float() - exact)[real].abs().mean())
        total_ours += float((ours.float() - exact)[real].abs().mean())
    assert total_ours <= 1.1 * total_theirs


@torch.no_grad()
def test_encoder_in_float16_clamps_what_overflows():
    hf = hf_model(Sizes(audio_layers=1))
    hf.model.audio_tower.layers[0].fc2.bias.fill_(6e4)
    hf.model.audio_tower.layers[0].self_attn.out_proj.bias.fill_(6e4)
    hf = hf.half()
    prompt = make_prompt(Sizes(audio_layers=1))
    ours = HookedAudioTransformer.from_hf(hf)
    _, cache = ours.run_with_cache(prompt, names_filter="audio_encoder.blocks.0.hook_resid_post")
    assert cache["audio_encoder.blocks.0.hook_resid_post"].isfinite().all()
