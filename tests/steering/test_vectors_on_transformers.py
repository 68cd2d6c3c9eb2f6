"""A steering vector on a plain transformers model does what it does on ours."""

import pytest
import torch
from family_models import FAMILY_CASES

from lens_audio import HookedAudioTransformer
from lens_audio.steering import SteeringVector

N_NEW = 6


@pytest.fixture(scope="module", params=FAMILY_CASES[:2], ids=lambda family: family.name)
def both(request):
    """A transformers model, ours over its weights, and inputs of three left-padded rows."""
    family = request.param
    sizes = family.sizes(3)
    hf = family.build(sizes, 3)
    return hf, HookedAudioTransformer.from_hf(hf), family.inputs(sizes, [[23], [9, 17], []], seed=4)


def vector_of(model, site="resid_post"):
    generator = torch.Generator().manual_seed(0)
    cfg = model.cfg
    layers = {0, cfg.n_layers - 1}
    return SteeringVector({l: torch.randn(cfg.d_model, generator=generator) for l in layers}, site)


def written(hf, inputs, **options):
    settings = {"max_new_tokens": N_NEW, "do_sample": False, "eos_token_id": None, **options}
    return hf.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
@pytest.mark.parametrize("positions", ["last", "audio", None, [-1, -3]])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_logits_are_those_of_ours(both, site, positions) -> None:
    hf, ours, inputs = both
    prompt, vector = ours.prompt_from_inputs(inputs), vector_of(ours, site)
    with vector.attach(ours, 2.0, positions):
        expected = ours(prompt)
    with vector.attach_to_hf(hf, 2.0, positions):
        found = hf(**inputs).logits
    real = prompt.attention_mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(expected[real], ours(prompt)[real], atol=1e-2)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generates_the_same_tokens(both, use_cache) -> None:
    hf, ours, inputs = both
    vector = vector_of(ours)
    options = {"stop_at_eos": False, "return_type": "tokens", "verbose": False}
    with vector.attach(ours, 2.0):
        expected = ours.generate(ours.prompt_from_inputs(inputs), N_NEW, **options)
    plain = written(hf, inputs)
    with vector.attach_to_hf(hf, 2.0):
        assert torch.equal(written(hf, inputs, use_cache=use_cache), expected)
    assert not torch.equal(plain, expected)


def test_the_model_is_itself_again_even_after_an_exception(both) -> None:
    hf, ours, inputs = both
    plain = hf(**inputs).logits
    with pytest.raises(RuntimeError, match="mine"), vector_of(ours).attach_to_hf(hf):
        assert not torch.equal(hf(**inputs).logits, plain)
        raise RuntimeError("mine")
    assert torch.equal(hf(**inputs).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "z"}, "cannot be steered at 'z', only at resid_pre"),
        ({"site": "audio_encoder.resid_post"}, "cannot be steered at 'audio_encoder.resid_post'"),
        ({"layer": 99}, "99"),
        ({"width": 3}, "the direction has width 3"),
    ],
)
def test_refuses_other_sites_layers_and_widths(both, changes, message) -> None:
    hf, ours, _ = both
    given = {"site": "resid_post", "layer": 0, "width": ours.cfg.d_model} | changes
    vector = SteeringVector.supplied(torch.ones(given["width"]), given["layer"], given["site"])
    with pytest.raises(ValueError, match=message):
        vector.attach_to_hf(hf)


def test_refuses_embeddings_another_model_and_an_earlier_cache(both) -> None:
    hf, ours, inputs = both
    vector, earlier = vector_of(ours), hf(**inputs).past_key_values
    with pytest.raises(ValueError, match="expected a transformers Qwen2-Audio"):
        vector.attach_to_hf(torch.nn.Linear(2, 2))
    with vector.attach_to_hf(hf):
        with pytest.raises(ValueError, match="give input_ids"):
            hf(inputs_embeds=torch.zeros(1, 2, ours.cfg.d_model))
        with pytest.raises(ValueError, match="filled before"):
            hf(input_ids=torch.full((3, 1), 7), past_key_values=earlier)


def test_scaled_multiplies_every_direction_and_says_so() -> None:
    vector = SteeringVector({0: torch.ones(3), 2: torch.arange(3.0)}, provenance={"data": "mine"})
    scaled = vector.scaled(2.0).scaled(-0.5)
    for layer, direction in vector.directions.items():
        assert torch.equal(scaled.directions[layer], -direction)
    assert scaled.provenance == {"data": "mine", "scaled_by": -1.0}
    assert vector.provenance == {"data": "mine"}
    with pytest.raises(ValueError, match="finite"):
        vector.scaled(float("inf"))
