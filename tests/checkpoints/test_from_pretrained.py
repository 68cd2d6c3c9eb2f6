"""`from_pretrained` reads every layout of a checkpoint and says what is wrong with a bad one."""

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoint_folder import SIZES, hub_names, in_memory_names, load, spoil, write
from models import Sizes, hf_config, hf_inputs, hf_model, make_prompt
from safetensors.torch import save_file

from lens_audio import HookedAudioTransformer


@pytest.fixture(scope="module")
def hf():
    return hf_model(SIZES)


@pytest.fixture
def folder(tmp_path, hf):
    """A good checkpoint, to spoil."""
    return write(tmp_path, hub_names(hf))


@torch.no_grad()
def assert_same_model(ours, hf):
    prompt = make_prompt(SIZES)
    expected = hf(**hf_inputs(prompt)).logits
    torch.testing.assert_close(ours(prompt), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("layout", [hub_names, in_memory_names])
def test_layouts(tmp_path, hf, layout, n_shards):
    assert_same_model(load(write(tmp_path, layout(hf), n_shards)), hf)


@pytest.mark.parametrize("max_shard_size", ["50GB", "20KB"])
def test_what_transformers_saves(tmp_path, hf, max_shard_size):
    hf.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert_same_model(load(tmp_path), hf)


@pytest.mark.parametrize("path", [str, lambda folder: folder])
def test_path_may_be_a_string(folder, path):
    assert load(path(folder)).cfg.model_name == folder.name


def test_weights_are_those_stored(folder, hf):
    weight = hf.model.language_model.layers[1].self_attn.k_proj.weight
    assert torch.equal(load(folder).blocks[1].attn.k_proj.weight, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_asked_dtype(folder, dtype):
    model = load(folder, dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert model.cfg.dtype == model.cfg.audio.dtype == dtype


def test_stored_dtype_is_the_default(tmp_path):
    hf = hf_model(SIZES, dtype=torch.bfloat16)
    model = load(write(tmp_path, hub_names(hf)))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_tied_checkpoint_stores_no_head(tmp_path):
    sizes = Sizes(tied=True)
    hf = hf_model(sizes)
    tensors = hub_names(hf)
    del tensors["language_model.lm_head.weight"]
    model = load(write(tmp_path, tensors, config=hf_config(sizes)))
    assert model.unembed.lm_head.weight is model.embed.W_E
    assert_same_model(model, hf)


def test_a_head_of_its_own_is_read_though_the_config_says_tied(tmp_path, hf):
    """As transformers does: what is stored counts."""
    model = load(write(tmp_path, hub_names(hf), config=hf_config(Sizes(tied=True))))
    assert_same_model(model, hf)


def test_end_of_sequence_tokens_are_those_of_the_generation_config(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert load(folder).cfg.eos_token_ids == [5, 6]


def test_parameters_can_be_learned(folder):
    assert all(weight.requires_grad for weight in load(folder).parameters())


def test_model_is_in_evaluation_mode(folder):
    assert not load(folder).training


NAME = "language_model.model.layers.1.mlp.up_proj.weight"


def test_missing_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.pop(NAME))
    with pytest.raises(ValueError, match=r"missing.*layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_missing_head_is_named(folder):
    spoil(folder, lambda tensors: tensors.pop("language_model.lm_head.weight"))
    with pytest.raises(ValueError, match=r"missing.*lm_head"):
        load(folder)


def test_extra_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.update({"visual.patch.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"visual\.patch\.weight"):
        load(folder)


def test_tensor_of_a_layer_too_many_is_named(folder):
    name = NAME.replace("layers.1", "layers.2")
    spoil(folder, lambda tensors: tensors.update({name: tensors[NAME].clone()}))
    with pytest.raises(ValueError, match=re.escape(name)):
        load(folder)


def test_misshapen_tensor_is_named_with_both_shapes(folder):
    spoil(folder, lambda tensors: tensors.update({NAME: torch.zeros(44, 31)}))
    with pytest.raises(ValueError, match=rf"{re.escape(NAME)}.*\(44, 31\).*\(44, 32\)") as error:
        load(folder)
    assert "missing" not in str(error.value)


def test_truncated_file_is_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors.*truncated"):
        load(folder)


def test_empty_file_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(folder)


def test_missing_shard_is_named(tmp_path, hf):
    write(tmp_path, hub_names(hf), n_shards=3)
    (tmp_path / "model-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002\.safetensors"):
        load(tmp_path)


def test_a_tensor_in_two_files_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    save_file({NAME: torch.zeros(44, 32)}, folder / "second.safetensors")
    with pytest.raises(ValueError, match=re.escape(NAME)):
        load(folder)


def test_files_beside_model_safetensors_are_not_read(folder, hf):
    save_file({NAME: torch.zeros(44, 32)}, folder / "more.safetensors")
    assert_same_model(load(folder), hf)


def test_shards_stray_from_the_index_are_not_read(tmp_path, hf):
    write(tmp_path, hub_names(hf), n_shards=2)
    save_file({"stray": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert_same_model(load(tmp_path), hf)


def test_index_that_is_no_json_is_named(tmp_path, hf):
    write(tmp_path, hub_names(hf), n_shards=2)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json"):
        load(tmp_path)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load(folder)


def test_a_pickle_that_calls_a_function_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch called'\ntR.")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds more than tensors.*refused"):
        load(folder)
    assert not Path("called").exists()


def test_another_architecture_is_refused(folder):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        load(folder)


def test_folder_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)


def test_an_adapter_says_how_to_load_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"adapter.*merge_and_unload.*from_hf"):
        load(tmp_path)


def test_a_file_is_no_folder(folder):
    with pytest.raises(FileNotFoundError, match="is a file"):
        load(folder / "config.json")


def test_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        load(tmp_path / "nowhere")


def test_device_that_does_not_exist(folder):
    with pytest.raises(ValueError, match="cuda:99"):
        HookedAudioTransformer.from_pretrained(folder, device="cuda:99")


def test_device_that_is_no_device(folder):
    with pytest.raises(ValueError, match="toaster"):
        HookedAudioTransformer.from_pretrained(folder, device="toaster")


def test_nothing_is_downloaded_for_a_folder(folder, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it went online"))
    load(folder)


def test_without_tokenizer_it_runs_on_tensors(folder):
    model, tokens = load(folder), torch.tensor([[5, 6, 7]])
    assert model.generate(tokens, 3, verbose=False).shape == (1, 6)


TEXT_HELPERS = {
    "to_tokens": lambda model: model.to_tokens("a"),
    "to_string": lambda model: model.to_string(torch.tensor([5])),
    "to_str_tokens": lambda model: model.to_str_tokens("a"),
    "to_single_token": lambda model: model.to_single_token("a"),
    "prompt": lambda model: model.prompt("a", audio=torch.zeros(16000)),
}


@pytest.mark.parametrize("helper", TEXT_HELPERS)
def test_without_tokenizer_text_helpers_name_the_missing_files(folder, helper):
    model = load(folder)
    with pytest.raises(ValueError, match=r"tokenizer\.json|preprocessor_config\.json"):
        TEXT_HELPERS[helper](model)
