"""A checkpoint of the first generation loads from every format, and a bad one says what is wrong."""

import json
import os
import re

import pytest
import torch
from qwen_audio_models import SIZES, config_json, edged_prompt, load, write_checkpoint
from safetensors.torch import load_file, save_file

from lens_audio import HookedAudioTransformer
from lens_audio.checkpoints.pretrained import resolve_folder
from lens_audio.checkpoints.shards import find_shards

FUSED = "transformer.h.1.attn.c_attn.weight"


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path, config_json())


@pytest.fixture
def tensors(folder):
    """What the folder holds, after taking its file away."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


def write_shards(folder, tensors, suffix, save, stem):
    files = {name: f"{stem}-{i % 3 + 1:05d}-of-00003.{suffix}" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save({n: t for n, t in tensors.items() if files[n] == file}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": files}))


FORMATS = {
    "one bin": lambda folder, tensors: torch.save(tensors, folder / "pytorch_model.bin"),
    "bins": lambda folder, tensors: write_shards(
        folder, tensors, "bin", torch.save, "pytorch_model"
    ),
    "safetensors": lambda folder, tensors: write_shards(
        folder, tensors, "safetensors", save_file, "model"
    ),
    "an old bin, which cannot be mapped": lambda folder, tensors: torch.save(
        tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("layout", FORMATS)
@torch.no_grad()
def test_every_format_gives_the_same_model(folder, tensors, layout):
    FORMATS[layout](folder, tensors)
    found = load(folder)
    save_file(tensors, folder / "model.safetensors")
    prompt = edged_prompt()
    torch.testing.assert_close(found(prompt), load(folder)(prompt), atol=0, rtol=0)


@pytest.mark.parametrize("layout", FORMATS)
def test_the_parts_of_a_fused_tensor_share_its_memory(folder, tensors, layout):
    FORMATS[layout](folder, tensors)
    attn = load(folder).blocks[1].attn
    stored = [w.untyped_storage().data_ptr() for w in (attn.q_proj.weight, attn.v_proj.weight)]
    assert stored[0] == stored[1]
    assert torch.equal(attn.k_proj.weight, tensors[FUSED].chunk(3)[1])


def test_weights_under_transformer_lens_names(folder):
    fused = load_file(folder / "model.safetensors")[FUSED]
    per_head = fused.view(3, SIZES.n_heads, SIZES.d_head, SIZES.d_model).transpose(-1, -2)
    model = load(folder)
    for name, expected in zip(("W_Q", "W_K", "W_V"), per_head, strict=True):
        assert torch.equal(getattr(model, name)[1], expected)


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_that_runs_code_is_refused(folder, tensors, zipped):
    called = folder / "called"
    content = tensors | {"lm_head.weight": Malicious(f"touch {called}")}
    path = folder / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds more than tensors.*refused"):
        load(folder)
    assert not called.exists()


def test_a_bin_without_names_is_refused(folder, tensors):
    torch.save(list(tensors.values()), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no tensors by name"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5000])
def test_a_truncated_bin_is_named(folder, tensors, keep):
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load(folder)


def test_an_index_without_a_weight_map(folder, tensors):
    (folder / "pytorch_model.bin.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin\.index\.json"):
        load(folder)


def test_remote_code_in_the_folder_is_not_run(folder):
    config = config_json(auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("code", "configuration_qwen", "modeling_qwen", "tokenization_qwen"):
        (folder / f"{name}.py").write_text("raise SystemExit('remote code was run')")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}})
    )
    load(folder)


def test_a_missing_fused_tensor_is_named_once(folder, tensors):
    del tensors[FUSED]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"missing: {re.escape(FUSED)}$"):
        load(folder)


def test_a_misshapen_fused_tensor_is_named_with_both_shapes(folder, tensors):
    save_file(tensors | {FUSED: torch.zeros(95, 32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{re.escape(FUSED)} is \(95, 32\).*\(96, 32\)"):
        load(folder)


def test_an_extra_tensor_is_named(folder, tensors):
    save_file(tensors | {"transformer.visual": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"unknown: transformer\.visual"):
        load(folder)


def test_buffers_that_the_reference_ignores_are_ignored(folder, tensors):
    buffer = {"transformer.h.0.attn.masked_bias": torch.tensor([-1e4])}
    save_file(tensors | buffer, folder / "model.safetensors")
    load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": None}, "text-only Qwen"),
        ({"rotary_pct": 0.5}, "rotary_pct=0.5 is not supported"),
        ({"kv_channels": 9}, "kv_channels=9 is not supported"),
        ({"seq_length": 1}, "seq_length"),
    ],
)
def test_a_config_that_is_not_qwen_audio(folder, change, message):
    (folder / "config.json").write_text(json.dumps(config_json() | change))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_without_its_vocabulary_text_helpers_name_the_missing_file(folder):
    model = load(folder)
    for ask in (lambda: model.to_tokens("a"), lambda: model.prompt("a", audio=torch.zeros(16000))):
        with pytest.raises(ValueError, match=r"qwen\.tiktoken"):
            ask()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_asked_dtype(folder, dtype):
    model = HookedAudioTransformer.from_pretrained(folder, "cpu", dtype, verbose=False)
    assert {weight.dtype for weight in model.parameters()} == {dtype}


@pytest.mark.parametrize("key", ["hidden_size", "seq_length"])
def test_a_config_that_lacks_a_size_is_told(folder, key):
    config = config_json()
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"lacks '{key}'"):
        load(folder)


@pytest.mark.parametrize(("has_safetensors", "n_downloads"), [(True, 1), (False, 2)])
def test_bins_are_downloaded_only_where_there_are_no_safetensors(
    folder, monkeypatch, has_safetensors, n_downloads
):
    if not has_safetensors:
        (folder / "model.safetensors").unlink()
    asked = []

    def download(name, revision, allow_patterns):
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_folder("Qwen/Qwen-Audio") == folder
    assert len(asked) == n_downloads
    assert "*.tiktoken" in asked[0]
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked[0])


@pytest.mark.parametrize("name", ["../x.bin", "/x.safetensors", 1, ["a"]], ids=str)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    index = {"weight_map": {"lm_head.weight": name}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no file of its folder"):
        find_shards(tmp_path)
