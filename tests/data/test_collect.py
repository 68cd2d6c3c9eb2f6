"""The collector: what a run's own cache holds, kept by name."""

import pytest
import torch
from models import hooked_model, make_prompt

from lens_audio.data.collect import at_positions, collecting, layer_names
from lens_audio.sites import last_positions

MODEL, PROMPT = hooked_model(), make_prompt()


def test_what_is_collected_is_what_the_cache_holds():
    names = [*layer_names("hook_resid_post", range(2)), "audio_encoder.blocks.0.attn.hook_v"]
    _, cache = MODEL.run_with_cache(PROMPT, names_filter=names)
    with collecting(MODEL, names, take=lambda x: x[:, -1].clone()) as kept:
        MODEL(PROMPT)
    assert set(kept) == set(names)
    assert all(torch.equal(kept[name], cache[name][:, -1]) for name in names)


def test_a_negative_layer_goes_under_its_own_name_and_no_hook_stays():
    with collecting(MODEL, ["blocks.-1.hook_resid_post"]) as kept:
        MODEL(PROMPT)
    assert list(kept) == [f"blocks.{MODEL.cfg.n_layers - 1}.hook_resid_post"]
    MODEL.check_no_hooks()


def test_gradients_flow_through_what_is_collected():
    with collecting(MODEL, ["blocks.0.hook_resid_post"]) as kept:
        logits = MODEL(PROMPT)
    (gradient,) = torch.autograd.grad(logits.sum(), list(kept.values()))
    assert bool((gradient != 0).any())


def test_a_hook_point_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="hook_nothing"), collecting(MODEL, ["hook_nothing"]):
        pass


def test_the_last_position_is_the_last_real_one_on_either_side_of_the_padding():
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]).bool()
    assert last_positions(mask).tolist() == [1, 3]
    x = torch.arange(8).view(2, 4).float()
    assert at_positions(x, last_positions(mask)).tolist() == [1.0, 7.0]
