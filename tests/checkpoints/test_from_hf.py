"""`from_hf` wraps a transformers model and copies nothing."""

import pytest
import torch
from models import Sizes, hf_inputs, hf_model, make_prompt
from transformers import Qwen2Config, Qwen2ForCausalLM

from lens_audio import HookedAudioTransformer


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_shares_its_storage(tied):
    hf = hf_model(Sizes(tied=tied))
    ours = HookedAudioTransformer.from_hf(hf)
    theirs = sorted(weight.data_ptr() for weight in hf.parameters())
    assert sorted(weight.data_ptr() for weight in ours.parameters()) == theirs


def test_a_change_of_one_is_a_change_of_the_other():
    hf = hf_model(Sizes())
    ours = HookedAudioTransformer.from_hf(hf)
    prompt = make_prompt()
    with torch.no_grad():
        hf.model.language_model.layers[0].mlp.up_proj.weight.mul_(2)
        expected = hf(**hf_inputs(prompt)).logits
        torch.testing.assert_close(ours(prompt), expected, atol=1e-5, rtol=0)


def test_no_parameter_is_left_on_the_meta_device():
    ours = HookedAudioTransformer.from_hf(hf_model(Sizes()))
    tensors = [*ours.parameters(), *ours.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_tied_embeddings_stay_tied():
    ours = HookedAudioTransformer.from_hf(hf_model(Sizes(tied=True)))
    assert ours.unembed.lm_head.weight is ours.embed.W_E


def test_dtype_follows_the_model():
    ours = HookedAudioTransformer.from_hf(hf_model(Sizes(), dtype=torch.bfloat16))
    assert ours.cfg.dtype == torch.bfloat16
    assert ours(make_prompt()).dtype == torch.bfloat16


def test_end_of_sequence_tokens_follow_the_generation_config():
    hf = hf_model(Sizes())
    hf.generation_config.eos_token_id = [7, 9]
    assert HookedAudioTransformer.from_hf(hf).cfg.eos_token_ids == [7, 9]


def test_sizes_follow_the_config():
    sizes = Sizes()
    cfg = HookedAudioTransformer.from_hf(hf_model(sizes)).cfg
    assert (cfg.d_model, cfg.n_heads, cfg.n_key_value_heads, cfg.d_head) == (32, 4, 2, 8)
    assert (cfg.n_layers, cfg.d_mlp, cfg.d_vocab, cfg.n_ctx) == (2, 44, 60, 128)
    assert (cfg.audio.d_model, cfg.audio.n_heads, cfg.audio.n_layers) == (24, 3, 2)


def test_another_architecture_is_refused():
    config = Qwen2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    with pytest.raises(ValueError, match="Qwen2ForCausalLM"):
        HookedAudioTransformer.from_hf(Qwen2ForCausalLM(config))


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, "yarn"),
        ("use_sliding_window", True, "sliding"),
    ],
)
def test_a_feature_that_the_port_lacks_is_refused(field, value, match):
    hf = hf_model(Sizes())
    setattr(hf.config.text_config, field, value)
    with pytest.raises(ValueError, match=match):
        HookedAudioTransformer.from_hf(hf)
