"""Gradients through every path, against transformers' and against each other."""

import pytest
import torch
import torch.nn.functional as F
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt
from transformers_reference import recorded

from lens_audio import HookedAudioTransformer

SIZES = Sizes()
LAYOUTS = {
    "single": Layout([7], [[23]]),
    "left": Layout([9, 4], [[23], [8, 9]], "left"),
    "right": Layout([9, 4], [[23], [8, 9]], "right"),
}
PATTERN = [(lambda name: name.endswith("hook_pattern"), lambda value, hook: None)]
NORMS = [(lambda name: name.endswith("hook_scale"), lambda value, hook: None)]


@pytest.fixture(scope="module")
def hf():
    return hf_model(SIZES)


@pytest.fixture(scope="module")
def model(hf):
    return HookedAudioTransformer.from_hf(hf)


def loss_of(logits, prompt):
    """A loss that every real position has a part in."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    return (logits.log_softmax(-1) * weights)[prompt.attention_mask].sum()


def close(found, expected):
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("hooks", [[], PATTERN, NORMS], ids=["fused", "pattern", "norms"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_the_mel_spectrogram(hf, model, layout, hooks):
    prompt = make_prompt(SIZES, LAYOUTS[layout])
    prompt.mel.requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(hf(**hf_inputs(prompt)).logits, prompt), prompt.mel)
    with model.hooks(hooks):
        (found,) = torch.autograd.grad(loss_of(model(prompt), prompt), prompt.mel)
    close(found, expected)


@pytest.mark.parametrize("hooks", [[], PATTERN], ids=["fused", "pattern"])
def test_gradient_of_the_weights(hf, model, hooks):
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    weights = [w for w in hf.parameters() if w.requires_grad]
    expected = torch.autograd.grad(loss_of(hf(**hf_inputs(prompt)).logits, prompt), weights)
    with model.hooks(hooks):
        found = torch.autograd.grad(loss_of(model(prompt), prompt), weights)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


SITES = {
    "blocks.0.hook_resid_post": "model.language_model.layers.0:out",
    "blocks.0.attn.hook_q": "model.language_model.layers.0.self_attn.q_proj:out",
    "blocks.0.attn.hook_k": "model.language_model.layers.0.self_attn.k_proj:out",
    "blocks.0.attn.hook_z": "model.language_model.layers.0.self_attn.o_proj:in",
    "blocks.1.attn.hook_pattern": "model.language_model.layers.1.self_attn:all",
    "blocks.1.mlp.hook_post": "model.language_model.layers.1.mlp.down_proj:in",
    "audio_encoder.blocks.0.hook_resid_post": "model.audio_tower.layers.0:out",
    "audio_encoder.blocks.1.attn.hook_v": "model.audio_tower.layers.1.self_attn.v_proj:out",
    "audio_projector.hook_in": "model.multi_modal_projector:in",
    "audio_projector.hook_out": "model.multi_modal_projector:out",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("site", SITES)
def test_gradient_of_an_activation(hf, model, site, layout):
    prompt = make_prompt(SIZES, LAYOUTS[layout])
    with recorded(hf) as seen:
        loss = loss_of(hf(**hf_inputs(prompt)).logits, prompt)
    theirs = seen[SITES[site]]
    theirs = theirs[1] if isinstance(theirs, tuple) else theirs
    (expected,) = torch.autograd.grad(loss, theirs)
    kept = {}
    with model.hooks([(site, lambda value, hook: kept.update(value=value))]):
        loss = loss_of(model(prompt), prompt)
    (found,) = torch.autograd.grad(loss, kept["value"])
    found, expected = found.reshape(found.shape), expected.reshape(found.shape)
    if site.endswith("hook_pattern"):  # where attention is forbidden, no gradient is anyone's
        causal = torch.ones(found.shape[-2:], dtype=torch.bool).tril()
        real = prompt.attention_mask
        visible = (real[:, :, None] & real[:, None, :] & causal)[:, None].expand_as(found)
        found, expected = found[visible], expected[visible]
    elif not site.startswith("audio"):
        found, expected = found[prompt.attention_mask], expected[prompt.attention_mask]
    close(found, expected)


def test_backward_hook_sees_the_gradient(model):
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    site, seen = "blocks.0.hook_resid_mid", {}
    with model.hooks(
        fwd_hooks=[(site, lambda value, hook: seen.update(value=value))],
        bwd_hooks=[(site, lambda grad, hook: seen.update(grad=grad))],
    ):
        loss_of(model(prompt), prompt).backward()
    with model.hooks([(site, lambda value, hook: seen.update(value=value))]):
        (expected,) = torch.autograd.grad(loss_of(model(prompt), prompt), seen["value"])
    close(seen["grad"], expected)


def test_run_with_cache_gives_gradients_on_request(model):
    prompt = make_prompt(SIZES, LAYOUTS["single"])
    with model.hooks([]):
        _, cache = model.run_with_cache(
            prompt, return_type="loss", incl_bwd=True, names_filter="blocks.0.hook_resid_post"
        )
    assert cache["blocks.0.hook_resid_post_grad"].isfinite().all()


def test_gradient_passes_a_logits_slice(model):
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    mel = prompt.mel.requires_grad_()
    (found,) = torch.autograd.grad(model(prompt, logits_to_keep=1)[..., 5].sum(), mel)
    (expected,) = torch.autograd.grad(model(prompt)[:, -1, 5].sum(), mel)
    close(found, expected)


def test_gradient_of_the_loss_is_that_of_the_cross_entropy(model):
    prompt = make_prompt(SIZES, Layout([8], [[]]))
    weight = model.blocks[0].mlp.gate_proj.weight
    (found,) = torch.autograd.grad(model(prompt, return_type="loss"), weight)
    by_hand = F.cross_entropy(model(prompt)[0, :-1], prompt.tokens[0, 1:])
    (expected,) = torch.autograd.grad(by_hand, weight)
    close(found, expected)


def test_listening_to_passes_gradients_to_the_mel_spectrogram(model):
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    prompt.mel.requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(model(prompt), prompt), prompt.mel)
    with model.listening_to(prompt):
        (found,) = torch.autograd.grad(loss_of(model(prompt.tokens), prompt), prompt.mel)
    close(found, expected)
