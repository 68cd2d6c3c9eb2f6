"""run_with_cache's options, and a config that follows the weights."""

import pytest
import torch
from models import Layout, hooked_model, make_prompt

from lens_audio import KeyValueCache

PROMPT = make_prompt(layout=Layout(n_text=[7], clips=[[23]]))


def test_pos_slice_keeps_one_position_of_the_decoder():
    _, cache = hooked_model().run_with_cache(PROMPT, pos_slice=-1)
    _, whole = hooked_model().run_with_cache(PROMPT)
    assert torch.equal(cache["rot_q", 0], whole["rot_q", 0][:, [-1]])
    assert torch.equal(cache["resid_post", 1], whole["resid_post", 1][:, [-1]])
    assert torch.equal(cache["pattern", 1], whole["pattern", 1][:, :, [-1]])


def test_pos_slice_leaves_the_encoder_whole():
    name = "audio_encoder.blocks.0.hook_resid_post"
    _, cache = hooked_model().run_with_cache(PROMPT, pos_slice=3)
    _, whole = hooked_model().run_with_cache(PROMPT)
    assert torch.equal(cache[name], whole[name])


@pytest.mark.parametrize("prefix", ["", "audio_encoder."])
def test_names_count_layers_from_the_end_as_hooks_do(prefix):
    name, last = f"{prefix}blocks.-1.hook_resid_post", f"{prefix}blocks.1.hook_resid_post"
    for names_filter in (name, [name]):
        _, cache = hooked_model().run_with_cache(PROMPT, names_filter=names_filter)
        assert list(cache.keys()) == [last]


def test_a_layer_from_the_end_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no hook point is called"):
        hooked_model().run_with_cache(PROMPT, names_filter="blocks.-3.hook_resid_post")


def test_add_hook_counts_layers_from_the_end():
    model = hooked_model()
    model.add_hook("blocks.-1.hook_resid_post", lambda x, hook: 0 * x)
    assert list(model.list_hooks()) == ["blocks.1.hook_resid_post"]


def test_remove_batch_dim_drops_the_batch():
    _, cache = hooked_model().run_with_cache(PROMPT, remove_batch_dim=True)
    assert cache["resid_pre", 0].shape == (PROMPT.tokens.shape[1], 32)


def test_gradients_are_cached_on_request():
    _, cache = hooked_model().run_with_cache(
        PROMPT, return_type="loss", incl_bwd=True, names_filter="blocks.1.hook_resid_pre"
    )
    assert bool(cache["blocks.1.hook_resid_pre_grad"].any())


def test_the_config_follows_the_weights_dtype():
    model = hooked_model().to(torch.bfloat16)
    assert model.cfg.dtype == model.cfg.audio.dtype == torch.bfloat16


def test_stopping_early_may_not_fill_a_growing_cache():
    model = hooked_model()
    with pytest.raises(ValueError, match="freeze"):
        model(PROMPT.tokens, stop_at_layer=1, past_kv_cache=KeyValueCache(2))
