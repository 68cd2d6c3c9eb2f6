"""A hook that edits in place touches the activation alone: no prompt, input, cache or source."""

import pytest
import torch
from models import hooked_model, make_prompt

from lens_audio import hooks

MODEL = hooked_model()
PROMPT = make_prompt()
SHAPES = {name: value.shape for name, value in MODEL.run_with_cache(PROMPT)[1].items()}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def overwrite(activation, hook):
    activation.fill_(2.0)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_an_in_place_hook_does_what_one_that_returns_does(name):
    in_place, in_place_cache = MODEL.hooks([(name, overwrite)]), {}
    with in_place:
        found, in_place_cache = MODEL.run_with_cache(PROMPT)
    with MODEL.hooks([(name, lambda x, hook: torch.full_like(x, 2.0))]):
        expected, cache = MODEL.run_with_cache(PROMPT)
    assert torch.equal(found, expected)
    for other in cache:
        assert torch.equal(in_place_cache[other], cache[other]), other


def test_an_in_place_hook_on_the_spectrogram_leaves_the_prompt_as_it_was():
    before = PROMPT.mel.clone()
    MODEL.run_with_hooks(PROMPT, fwd_hooks=[("audio_encoder.hook_mel", overwrite)])
    assert torch.equal(PROMPT.mel, before)


def test_a_cached_spectrogram_is_not_the_prompts():
    _, cache = MODEL.run_with_cache(PROMPT, names_filter="audio_encoder.hook_mel")
    cache["audio_encoder.hook_mel"].zero_()
    assert PROMPT.mel.any()


@pytest.mark.parametrize("layer", [0, 1])
def test_an_in_place_hook_leaves_a_given_residual_stream_as_it_was(layer):
    given = torch.randn(1, 5, MODEL.cfg.d_model)
    before = given.clone()
    name = f"blocks.{layer}.hook_resid_pre"
    MODEL.run_with_hooks(given, start_at_layer=layer, fwd_hooks=[(name, overwrite)])
    assert torch.equal(given, before)


def test_a_cached_or_returned_residual_stream_is_not_the_one_given():
    given = torch.randn(1, 5, MODEL.cfg.d_model)
    before = given.clone()
    _, cache = MODEL.run_with_cache(given, start_at_layer=0)
    cache["blocks.0.hook_resid_pre"].zero_()
    MODEL(given, start_at_layer=1, stop_at_layer=1).zero_()
    assert torch.equal(given, before)


@pytest.mark.parametrize("caching", ["run_with_cache", "capture"])
def test_what_was_kept_stays_when_the_same_activation_is_edited_later(caching):
    name = "blocks.0.attn.hook_z"
    expected = MODEL.run_with_cache(PROMPT, names_filter=name)[1][name]
    kept = {}
    if caching == "capture":
        keep = hooks.capture(kept, "z", layer=0)
    else:
        kept, keep, _ = MODEL.get_caching_hooks(name)
    MODEL.run_with_hooks(PROMPT, fwd_hooks=[*keep, (name, overwrite)])
    assert torch.equal(kept[name], expected)


def test_a_patching_source_stays_when_a_later_hook_edits_in_place():
    name = "blocks.0.hook_resid_post"
    _, source = MODEL.run_with_cache(PROMPT)
    before = source[name].clone()
    patch = hooks.patch("resid_post", layer=0, source=source)
    other = make_prompt(seed=1)
    MODEL.run_with_hooks(
        other, fwd_hooks=[*patch, (name, overwrite), ("blocks.1.hook_resid_pre", overwrite)]
    )
    assert torch.equal(source[name], before)
