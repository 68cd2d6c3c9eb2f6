"""Hook functions do the same to a TransformerBridge of Qwen2-Audio as to our model."""

import pytest
import torch
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt
from transformer_lens.model_bridge import TransformerBridge

from lens_audio import HookedAudioTransformer, hooks

SIZES = Sizes()
LAYOUTS = {
    "one": Layout([7], [[23]]),
    "left": Layout([7, 5], [[23], [9, 12]], "left"),
    "right": Layout([7, 5], [[23], [9, 12]], "right"),
}
DIRECTION = torch.randn(SIZES.d_model, generator=torch.Generator().manual_seed(0))
SITES = [site for site in hooks.SITES if site != "result"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    hf = hf_model(SIZES)
    hf.save_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    return HookedAudioTransformer.from_hf(hf), bridge


def run_bridge(bridge, prompt, fwd_hooks):
    inputs = hf_inputs(prompt)
    tokens = inputs.pop("input_ids")
    inputs.pop("position_ids")
    with torch.no_grad():
        return bridge.run_with_hooks(tokens, fwd_hooks=hooks.on(bridge, fwd_hooks), **inputs)


def assert_same(models, prompt, fwd_hooks):
    ours, bridge = models
    with torch.no_grad():
        expected, plain = ours.run_with_hooks(prompt, fwd_hooks=fwd_hooks), ours(prompt)
    found, real = run_bridge(bridge, prompt, fwd_hooks), prompt.attention_mask
    torch.testing.assert_close(found[real], expected[real], atol=2e-4, rtol=1e-4)
    assert not torch.allclose(expected[real], plain[real])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("site", SITES)
def test_patching_agrees(models, site, layout):
    prompt, other = (make_prompt(SIZES, LAYOUTS[layout], seed) for seed in (1, 2))
    with torch.no_grad():
        _, source = models[0].run_with_cache(other)
    heads = 1 if "_" not in site and len(site) == 1 else None
    for layer in (None, -1):
        fwd_hooks = hooks.patch(
            site, source=source, layer=layer, heads=heads, positions=prompt.audio_mask
        )
        assert_same(models, prompt, fwd_hooks)


def interventions(prompt):
    audio = prompt.audio_mask
    return {
        "steer": hooks.steer(DIRECTION, layer=-1, positions=[-1]),
        "steer everywhere": hooks.steer(DIRECTION, positions="all"),
        "steer a head": hooks.steer(DIRECTION[:8], site="z", heads=[(1, 2)], positions=audio),
        "project out": hooks.project_out(DIRECTION, layer=0),
        "zero": hooks.ablate("z", heads=[(0, 1), (1, 3)]),
        "knock out": hooks.knock_out_attention(keys=audio),
        "knock out a head": hooks.knock_out_attention(keys=audio, queries=[-1], heads=[(1, 0)]),
        "scale": hooks.scale_attention(keys=audio, factor=3.0, heads=[2], layers=[0]),
        "scale a head": hooks.scale("z", factor=-2.0, heads=[(0, 1)], positions=audio),
        "scale neurons": hooks.scale("mlp_post", factor=3.0, neurons=slice(0, 20), layer=-1),
        "zero neurons": hooks.ablate("mlp_pre", neurons=[0, 5, -1], positions=audio),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", interventions(make_prompt()))
def test_interventions_agree(models, name, layout):
    prompt = make_prompt(SIZES, LAYOUTS[layout], 1)
    assert_same(models, prompt, interventions(prompt)[name])


def test_a_cache_of_the_bridge_patches_our_model(models):
    ours, bridge = models
    prompt, other = make_prompt(seed=1), make_prompt(seed=2)
    inputs = hf_inputs(other)
    tokens = inputs.pop("input_ids")
    with torch.no_grad():
        logits, source = bridge.run_with_cache(tokens, **inputs)
        found = ours.run_with_hooks(prompt, fwd_hooks=hooks.patch("resid_post", source=source))
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=0)


def test_captured_names_are_the_same(models):
    ours, bridge = models
    prompt, stores = make_prompt(), ({}, {})
    with torch.no_grad():
        ours.run_with_hooks(prompt, fwd_hooks=hooks.capture(stores[0], "z"))
    run_bridge(bridge, prompt, hooks.capture(stores[1], "z"))
    assert stores[0].keys() == stores[1].keys()
    for name, value in stores[0].items():
        torch.testing.assert_close(stores[1][name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("group", ["audio", "text", "generated"])
def test_groups_that_a_bridge_cannot_tell_are_refused(models, group):
    with pytest.raises(ValueError, match="pass a mask"):
        run_bridge(models[1], make_prompt(), hooks.ablate("z", positions=group))
    assert not any(hook.has_hooks() for hook in models[1].hook_dict.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.7.attn.hook_z", "Layers run from 0 to 1"),
        ("blocks.-3.attn.hook_z", "Layers run from 0 to 1"),
        ("blocks.0.attn.hook_y", "Did you mean"),
        (lambda name: name.startswith("decoder"), "selects none"),
    ],
)
def test_names_are_checked_for_any_model(models, name, message):
    for model in models:
        with pytest.raises(ValueError, match=message):
            hooks.on(model, [(name, print)])


def test_steering_under_generation_agrees(models):
    ours, bridge = models
    prompt = make_prompt()
    steer = hooks.steer(DIRECTION * 4, layer=-1)
    with ours.hooks(steer):
        expected = ours.generate(prompt, 5, return_type="tokens", stop_at_eos=False, verbose=False)
    inputs = hf_inputs(prompt)
    tokens = inputs.pop("input_ids")
    inputs.pop("position_ids")
    with bridge.hooks(hooks.on(bridge, steer)):
        found = bridge.original_model.generate(
            input_ids=tokens, max_new_tokens=5, do_sample=False, eos_token_id=None, **inputs
        )
    assert torch.equal(found[:, tokens.shape[1] :], expected)
