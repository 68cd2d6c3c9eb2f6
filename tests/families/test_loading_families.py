"""Every family from a folder as transformers writes it, in one file or several, and from memory."""

import json

import pytest
import torch
from family_models import FAMILY_CASES
from safetensors.torch import load_file, save_file

from lens_audio import HookedAudioTransformer

families = pytest.mark.parametrize("family", FAMILY_CASES, ids=lambda family: family.name)
OMNI = next(family for family in FAMILY_CASES if family.name == "Qwen2.5-Omni")


def load(folder, **options):
    return HookedAudioTransformer.from_pretrained(folder, device="cpu", verbose=False, **options)


@families
@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
@torch.no_grad()
def test_a_saved_model_loads(family, seed, max_shard_size, tmp_path):
    sizes = family.sizes(seed)
    hf = family.build(sizes, seed)
    hf.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    ours, inputs = load(tmp_path), family.inputs(sizes, [[23]], seed=seed)
    expected = hf(**inputs).logits
    torch.testing.assert_close(ours(ours.prompt_from_inputs(inputs)), expected, atol=1e-4, rtol=0)


@families
@torch.no_grad()
def test_names_as_they_are_in_memory_load_too(family, tmp_path):
    sizes = family.sizes(1)
    hf = family.build(sizes, 1)
    hf.config.architectures = [type(hf).__name__]
    hf.config.save_pretrained(tmp_path)
    save_file({n: t.clone() for n, t in hf.state_dict().items()}, tmp_path / "model.safetensors")
    ours, inputs = load(tmp_path), family.inputs(sizes, [[23]])
    torch.testing.assert_close(
        ours(ours.prompt_from_inputs(inputs)), hf(**inputs).logits, atol=1e-4, rtol=0
    )


@families
def test_weights_in_memory_are_shared(family):
    hf = family.build(family.sizes(1), 1)
    ours = HookedAudioTransformer.from_hf(hf)
    theirs = {p.data_ptr() for p in hf.parameters()}
    assert {p.data_ptr() for p in ours.parameters()} <= theirs


@families
def test_a_tensor_that_is_missing_is_named_as_the_folder_has_it(family, tmp_path):
    hf = family.build(family.sizes(1), 1)
    hf.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in tensors if "audio_tower" in name and "fc1" in name)
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing") as error:
        load(tmp_path)
    assert gone in str(error.value)


@pytest.fixture
def whole_omni(tmp_path):
    """A folder of the whole Qwen2.5-Omni, which has a talker and a vocoder beside the thinker."""
    sizes = OMNI.sizes(1)
    hf = OMNI.build(sizes, 1)
    hf.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("visual.") for name in stored)
    tensors = {f"thinker.{name}": tensor for name, tensor in stored.items()}
    tensors |= {"talker.model.norm.weight": torch.ones(3), "token2wav.x": torch.ones(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    whole = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "thinker_config": config,
        "talker_config": {},
        "token2wav_config": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(whole))
    return tmp_path, hf, sizes


@torch.no_grad()
def test_the_thinker_of_a_whole_omni_loads_and_says_what_it_leaves_out(whole_omni, capsys):
    folder, hf, sizes = whole_omni
    ours = HookedAudioTransformer.from_pretrained(folder, device="cpu")
    said = capsys.readouterr().err
    for part in ("visual", "talker", "token2wav", "audio_tower.audio_bos_eos_token"):
        assert part in said
    inputs = OMNI.inputs(sizes, [[47, 20], []])
    found, real = ours(ours.prompt_from_inputs(inputs)), inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], hf(**inputs).logits[real], atol=1e-4, rtol=0)


def test_nothing_is_said_of_a_folder_without_more(tmp_path, capsys):
    FAMILY_CASES[0].build(FAMILY_CASES[0].sizes(1)).save_pretrained(tmp_path)
    HookedAudioTransformer.from_pretrained(tmp_path, device="cpu")
    assert "not read" not in capsys.readouterr().err


def test_the_thinker_is_taken_out_of_a_whole_omni_in_memory():
    hf = OMNI.build(OMNI.sizes(1), 1)
    whole = type("Qwen2_5OmniForConditionalGeneration", (torch.nn.Module,), {})()
    whole.thinker = hf
    ours = HookedAudioTransformer.from_hf(whole)
    assert ours.embed.W_E is hf.model.language_model.embed_tokens.weight


def test_a_qwen3_asr_in_its_authors_own_layout_is_refused(tmp_path):
    family = next(family for family in FAMILY_CASES if family.name == "Qwen3-ASR")
    family.build(family.sizes(1), 1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps({"architectures": config["architectures"], "thinker_config": config})
    )
    with pytest.raises(ValueError, match="whose name ends in -hf"):
        load(tmp_path)
