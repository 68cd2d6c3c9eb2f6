"""Weights that no model can run with are named while they load: NaN, infinite, quantised."""

import json
import re

import pytest
import torch
from checkpoint_folder import hub_names, load, spoil, write
from models import Sizes, hf_config, hf_model
from qwen_audio_models import config_json, write_checkpoint

from lens_audio import HookedAudioTransformer

NAME = "language_model.model.layers.1.mlp.up_proj.weight"
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, hub_names(hf_model(Sizes())))


def put(value, name=NAME):
    """One element of a stored tensor is this value."""

    def change(tensors):
        tensors[name].view(-1)[5] = value

    return change


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_value_that_is_not_finite_is_named_with_its_tensor(folder, value):
    spoil(folder, put(value))
    with pytest.raises(ValueError, match=rf"{re.escape(NAME)} in .*model\.safetensors.*NaN or inf"):
        load(folder)


def test_a_bfloat16_value_that_is_not_finite_is_named(tmp_path):
    folder = write(tmp_path, hub_names(hf_model(Sizes(), dtype=torch.bfloat16)))
    spoil(folder, put(float("nan")))
    with pytest.raises(ValueError, match=re.escape(NAME)):
        load(folder)


def test_a_value_that_is_not_finite_in_a_bin_is_named(folder):
    tensors = hub_names(hf_model(Sizes()))
    put(float("nan"))(tensors)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"{re.escape(NAME)} in .*pytorch_model\.bin"):
        load(folder)


def test_a_value_that_is_not_finite_in_a_fused_tensor_is_named(tmp_path):
    fused = "transformer.h.1.attn.c_attn.weight"
    spoil(write_checkpoint(tmp_path, config_json()), put(float("inf"), fused))
    with pytest.raises(ValueError, match=re.escape(fused)):
        load(tmp_path)


def test_a_value_too_large_for_the_asked_dtype_is_told_from_a_damaged_one(folder):
    spoil(folder, put(1e5))
    load(folder)
    with pytest.raises(ValueError, match=rf"{re.escape(NAME)}.*float16.*bfloat16 or float32"):
        load(folder, dtype=torch.float16)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_in_memory_a_value_that_is_not_finite_is_named(value):
    hf = hf_model(Sizes())
    with torch.no_grad():
        hf.model.audio_tower.layers[1].fc1.bias[3] = value
    with pytest.raises(ValueError, match=r"audio_tower\.layers\.1\.fc1\.bias.*NaN or inf"):
        HookedAudioTransformer.from_hf(hf)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_a_quantised_tensor_is_named(folder, dtype):
    spoil(folder, lambda tensors: tensors.update({NAME: tensors[NAME].to(dtype)}))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"{re.escape(NAME)}.*{name}.*quantised"):
        load(folder)


def test_a_quantised_checkpoint_is_refused_before_its_tensors_are_compared(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    spoil(folder, lambda tensors: tensors.pop(NAME))
    with pytest.raises(ValueError, match=r"quantization_config.*bitsandbytes.*quantised"):
        load(folder)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_a_dtype_by_its_name(folder, dtype, expected):
    model = load(folder, dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {expected}
    assert model.cfg.dtype == expected


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("inside", [None, "text_config"])
def test_auto_is_the_dtype_of_the_config(folder, field, inside):
    config = json.loads((folder / "config.json").read_text())
    for holder in (config, config["text_config"]):
        holder.pop("dtype", None)
    (config if inside is None else config[inside])[field] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder, dtype="auto").cfg.dtype == torch.bfloat16


def test_auto_without_a_dtype_in_the_config_is_that_of_the_weights(tmp_path):
    folder = write(tmp_path, hub_names(hf_model(Sizes(), dtype=torch.float16)))
    config = hf_config(Sizes()).to_dict()
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder, dtype="auto").cfg.dtype == torch.float16


@pytest.mark.parametrize("dtype", ["int8", "bf16", "", torch.int8, torch.float8_e4m3fn])
def test_another_dtype_is_refused_with_those_there_are(folder, dtype):
    with pytest.raises(ValueError, match=r"dtype.*'auto'.*bfloat16"):
        load(folder, dtype=dtype)
