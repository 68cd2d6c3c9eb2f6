"""What `from_hf` cannot follow it refuses at once, and says the way out."""

import types

import pytest
import torch
import torch.nn as nn
from models import Sizes, hf_inputs, hf_model, make_prompt
from transformers import Qwen2AudioForConditionalGeneration
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from lens_audio import HookedAudioTransformer


@pytest.fixture
def hf():
    return hf_model(Sizes())


def refused(hf, match):
    with pytest.raises(ValueError, match=match):
        HookedAudioTransformer.from_hf(hf)


def layer(hf, l=1):
    return hf.model.language_model.layers[l]


@torch.no_grad()
def assert_followed(hf):
    prompt = make_prompt()
    ours = HookedAudioTransformer.from_hf(hf)(prompt)
    torch.testing.assert_close(ours, hf(**hf_inputs(prompt)).logits, atol=1e-4, rtol=0)


def test_offloaded_weights(hf):
    layer(hf).mlp.to("meta")
    refused(hf, r"layers\.1\.mlp\.gate_proj\.weight.*meta.*device_map")


def test_int8_weights(hf):
    weight = layer(hf).mlp.up_proj.weight
    layer(hf).mlp.up_proj.weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    refused(hf, r"layers\.1\.mlp\.up_proj\.weight.*int8.*quantised.*dequantize")


def test_a_config_that_says_quantised(hf):
    hf.config.quantization_config = {"quant_method": "torchao"}
    refused(hf, r"quantised \(torchao\).*dequantize")


class Quantised(nn.Parameter):
    """A tensor of another class, as bitsandbytes and torchao have."""


def test_a_tensor_of_another_class(hf):
    layer(hf).mlp.up_proj.weight = Quantised(layer(hf).mlp.up_proj.weight.data)
    refused(hf, r"layers\.1\.mlp\.up_proj\.weight.*Quantised")


class Lora(nn.Module):
    """peft's layer: the frozen one inside, two thin matrices by the adapter's name."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        n_out, n_in = base_layer.weight.shape
        self.lora_A = nn.ModuleDict({"default": nn.Linear(n_in, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, n_out, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def test_lora_in_place(hf):
    layer(hf).self_attn.q_proj = Lora(layer(hf).self_attn.q_proj)
    refused(hf, r"layers\.1\.self_attn\.q_proj.*merge_and_unload")


class PeftModel(nn.Module):
    """What peft wraps a model in."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model


def test_a_wrapped_model_says_how_to_unwrap_it(hf):
    refused(PeftModel(hf), r"PeftModel.*merge_and_unload")
    refused(nn.DataParallel(hf), r"DataParallel.*\.module")


@pytest.mark.long  # torch.compile is slow to import
def test_a_compiled_model_says_how_to_unwrap_it(hf):
    refused(torch.compile(hf), r"OptimizedModule.*_orig_mod")


def test_a_subclass_that_computes_the_same_is_accepted():
    class Named(Qwen2AudioForConditionalGeneration):
        """A name, and a method of its own."""

        def answers(self):
            return []

        def save_pretrained(self, *args, **kwargs):
            raise NotImplementedError

    hf = hf_model(Sizes())
    hf.__class__ = Named
    assert_followed(hf)


def test_a_subclass_that_computes_otherwise_is_refused_by_what_it_overrides():
    class Louder(Qwen2AudioForConditionalGeneration):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    hf = hf_model(Sizes())
    hf.__class__ = Louder
    refused(hf, r"Louder overrides forward.*load_state_dict")


def test_a_namesake_is_no_subclass():
    model = type("Qwen2AudioForConditionalGeneration", (nn.Linear,), {})(2, 2)
    refused(model, "not a")


def test_a_part_that_computes_otherwise_is_named(hf):
    class Doubled(Qwen2MLP):
        def forward(self, x):
            return 2 * super().forward(x)

    layer(hf).mlp.__class__ = Doubled
    refused(hf, r"layers\.1\.mlp.*Doubled overrides forward")


def test_a_part_of_another_class_is_named(hf):
    class Other(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.weight = linear.weight

    layer(hf).mlp.up_proj = Other(layer(hf).mlp.up_proj)
    refused(hf, r"layers\.1\.mlp\.up_proj.*Other.*Linear")


def test_a_forward_of_one_instance_is_named(hf):
    layer(hf).mlp.forward = types.MethodType(lambda self, x: x, layer(hf).mlp)
    refused(hf, r"layers\.1\.mlp.*forward of its own")


@pytest.mark.long
def test_a_compiled_forward_is_the_same_forward(hf):
    hf.forward = torch.compile(hf.forward)
    HookedAudioTransformer.from_hf(hf)


def test_a_hook_of_accelerate_that_moves_inputs_is_no_other_forward(hf):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(layer(hf).mlp, AlignDevicesHook("cpu", io_same_device=True))
    assert_followed(hf)


def test_weights_of_several_dtypes(hf):
    layer(hf).mlp.to(torch.bfloat16)
    refused(hf, r"bfloat16.*float32.*\.to\(")


def test_a_tensor_that_is_no_parameter_is_missing(hf):
    """As a packed weight is, which is a buffer."""
    linear = layer(hf).mlp.up_proj
    weight = linear.weight.data
    del linear.weight
    linear.register_buffer("weight", weight)
    refused(hf, r"missing.*layers\.1\.mlp\.up_proj\.weight")


def test_a_tensor_too_many_is_named(hf):
    hf.value_head = nn.Linear(32, 1)
    refused(hf, r"unknown.*value_head\.weight")


def test_layers_cut_off_without_telling_the_config(hf):
    del hf.model.language_model.layers[1]
    refused(hf, r"missing.*layers\.1\.")
