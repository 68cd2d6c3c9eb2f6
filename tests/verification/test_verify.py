"""`verify` agrees with transformers on a whole checkpoint, and says where a faulty one differs."""

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from checkpoint_folder import hub_names, write
from models import Sizes, hf_config, hf_model
from qwen_audio_models import config_json, write_checkpoint
from transformers import Qwen2AudioForConditionalGeneration

from lens_audio import testbed
from lens_audio.checkpoints import load_pretrained
from lens_audio.checkpoints.families.qwen2_audio import QWEN2_AUDIO
from lens_audio.verification import verify
from lens_audio.verification.prompts import make_prompts
from lens_audio.verification.result import AGREES, DIFFERS, NO_REFERENCE

SIZES = Sizes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"), hub_names(hf_model(SIZES)))


@pytest.fixture(scope="module")
def agreed(folder):
    return verify(folder, "cpu")


briefly = partial(verify, n_tokens=3)


def changed(name, factor=1.01):
    """A loader with a fault: one tensor of the model is not the checkpoint's."""

    def load(*args, **options):
        model = load_pretrained(*args, **options)
        with torch.no_grad():
            model.get_parameter(name).mul_(factor)
        return model

    return load


def test_a_loader_without_a_fault_agrees(agreed):
    assert (agreed.verdict, agreed.first) == (AGREES, None)


def test_every_block_the_front_end_and_the_logits_are_compared_on_every_prompt(agreed):
    blocks = [
        f"{room}blocks.{l}.hook_resid_post" for room in ("audio_encoder.", "") for l in (0, 1)
    ]
    front = ["audio_encoder.hook_out", "audio_projector.hook_out"]
    places = [*blocks[:2], *front, *blocks[2:], "logits"]
    assert [[d.place for d in case.differences] for case in agreed.cases] == [places] * 4


def test_greedy_tokens_of_every_row_are_compared(agreed):
    assert [len(case.rows) for case in agreed.cases] == [1, 1, 3, 1]
    assert {len(row.ours) for case in agreed.cases for row in case.rows} == {32}


def test_a_quick_one_compares_every_place_on_one_prompt(folder, agreed):
    found = briefly(folder, "cpu", quick=True)
    assert [case.name for case in found.cases] == [agreed.cases[0].name]
    assert len(found.cases[0].differences) == len(agreed.cases[0].differences)


def test_what_transformers_differs_from_itself_by_is_measured(agreed):
    logits = [case.differences[-1] for case in agreed.cases]
    assert all(0 < found.own.share < 1e-5 for found in logits)
    assert all(found.allowed < 5 * found.own.share + 1e-6 for found in logits)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_agrees(folder, dtype):
    found = briefly(folder, "cpu", dtype)
    assert (found.verdict, found.facts["dtype"]) == (AGREES, dtype)


CHANGED = {
    "audio_encoder.conv1.weight": "audio_encoder.blocks.0.hook_resid_post",
    "audio_encoder.blocks.1.mlp.down_proj.weight": "audio_encoder.blocks.1.hook_resid_post",
    "audio_encoder.ln_final.b": "audio_encoder.hook_out",
    "audio_projector.linear.weight": "audio_projector.hook_out",
    "embed.W_E": "blocks.0.hook_resid_post",
    "blocks.1.attn.v_proj.weight": "blocks.1.hook_resid_post",
    "unembed.lm_head.weight": "logits",
}


@pytest.mark.long
@pytest.mark.parametrize(("name", "first"), CHANGED.items())
def test_one_changed_tensor_is_found_where_it_first_acts(folder, name, first):
    found = briefly(folder, "cpu", load=changed(name))
    assert (found.verdict, found.first) == (DIFFERS, ("one clip", first))


def test_a_loader_that_takes_one_tensor_for_another_is_found(folder, monkeypatch):
    names = QWEN2_AUDIO.names
    swapped = {
        "language_model.model.layers.*.mlp.up_proj.weight": "blocks.*.mlp.gate_proj.weight",
        "language_model.model.layers.*.mlp.gate_proj.weight": "blocks.*.mlp.up_proj.weight",
    }
    faulty = replace(QWEN2_AUDIO, names=swapped | names)
    monkeypatch.setattr("lens_audio.checkpoints.families.FAMILIES", [faulty])
    assert briefly(folder, "cpu").first == ("one clip", "blocks.0.hook_resid_post")


def test_a_fault_of_the_cache_shows_in_the_greedy_tokens(folder):
    def load(*args, **options):
        model = load_pretrained(*args, **options)

        def forget(k, hook):
            return k * 0.9 if k.shape[1] == 1 else k  # of a single new position

        model.blocks[0].attn.hook_k.add_hook(forget, is_permanent=True)
        return model

    found = briefly(folder, "cpu", load=load)
    assert found.first == ("one clip", "greedy tokens")


def test_only_one_model_is_in_memory_at_a_time(folder, monkeypatch):
    alive = []
    original = Qwen2AudioForConditionalGeneration.from_pretrained

    def loaded(*args, **options):
        model, info = original(*args, **options)
        alive.append(weakref.ref(model))
        return model, info

    monkeypatch.setattr(Qwen2AudioForConditionalGeneration, "from_pretrained", loaded)

    def load(*args, **options):
        assert [model() for model in alive] == [None]
        return load_pretrained(*args, **options)

    assert briefly(folder, "cpu", load=load).verdict == AGREES


@pytest.mark.long
def test_another_folder_in_transformers(folder, tmp_path):
    hf = hf_model(SIZES)
    with torch.no_grad():
        hf.model.language_model.layers[1].mlp.down_proj.weight.mul_(1.01)
    other = write(tmp_path, hub_names(hf))
    found = briefly(folder, "cpu", against=other)
    assert found.first == ("one clip", "blocks.1.hook_resid_post")
    assert found.facts["sha256"] != found.facts["sha256_in_transformers"]


def test_another_folder_of_other_sizes_is_refused(folder, tmp_path):
    sizes = replace(SIZES, d_mlp=45)
    other = write(tmp_path, hub_names(hf_model(sizes)), config=hf_config(sizes))
    with pytest.raises(ValueError, match="different sizes"):
        briefly(folder, "cpu", against=other)


def test_what_transformers_cannot_load_is_said_to_be_that(folder, tmp_path):
    tensors = hub_names(hf_model(SIZES))
    write(tmp_path, tensors)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"^transformers cannot load .*model\.safetensors"):
        briefly(tmp_path, "cpu")


@pytest.mark.long
def test_a_tensor_that_transformers_makes_up_is_named(tmp_path):
    """It draws a head at random where a tied checkpoint stores none."""
    sizes = Sizes(tied=True)
    tensors = hub_names(hf_model(sizes))
    del tensors["language_model.lm_head.weight"]
    write(tmp_path, tensors, config=hf_config(sizes))
    with pytest.raises(ValueError, match=r"^transformers cannot load .*missing.*lm_head"):
        briefly(tmp_path, "cpu")


def test_quantised_weights_are_said_to_be_that(tmp_path):
    tensors = {name: tensor.to(torch.int8) for name, tensor in hub_names(hf_model(SIZES)).items()}
    with pytest.raises(ValueError, match=r"^lens_audio cannot load .*int8.*quantised"):
        verify(write(tmp_path, tensors), "cpu")


def test_a_context_too_short_for_the_prompts_is_said(tmp_path):
    sizes = replace(SIZES, n_ctx=20)
    write(tmp_path, hub_names(hf_model(sizes)), config=hf_config(sizes))
    with pytest.raises(ValueError, match="context of 20 tokens, too short"):
        verify(tmp_path, "cpu")


def test_what_we_cannot_load_is_said_to_be_that(tmp_path):
    tensors = hub_names(hf_model(SIZES))
    tensors.popitem()
    with pytest.raises(ValueError, match=r"^lens_audio cannot load .*missing"):
        briefly(write(tmp_path, tensors), "cpu")


@pytest.fixture(scope="module")
def first_generation(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("v1"), config_json())


def test_the_first_generation_has_no_reference(first_generation):
    found = briefly(first_generation, "cpu")
    assert (found.verdict, found.first) == (NO_REFERENCE, None)
    assert {len(row.ours) for case in found.cases for row in case.rows} == {3}


def test_nan_is_a_difference_and_text_in_the_file(folder):
    found = briefly(folder, "cpu", load=changed("blocks.1.ln1.w", float("nan")))
    assert found.first == ("one clip", "blocks.1.hook_resid_post")
    difference = found.to_json()["prompts"][0]["differences"][5]
    assert (difference["ours"]["share"], difference["agrees"]) == ("nan", False)


def test_without_a_reference_what_is_not_finite_is_found(first_generation):
    found = briefly(first_generation, "cpu", load=changed("blocks.1.ln1.w", float("inf")))
    assert (found.verdict, found.first) == (DIFFERS, ("one clip", "blocks.1.hook_resid_post"))


def test_with_a_processor_the_prompts_are_sounds():
    model = load_pretrained(testbed.checkpoint_dir(), "cpu", verbose=False)
    prompts = make_prompts(model.cfg, model.processor)
    clips = {name: [len(p.clips_of(i)) for i in range(len(p))] for name, p in prompts.items()}
    assert clips == {
        "one clip": [1],
        "two clips": [2],
        "a batch": [1, 0, 2],
        "a full window": [1],
    }
    assert int(prompts["a full window"].mel_lengths) == model.cfg.audio.max_mel_frames
    assert "What do you hear?" in prompts["one clip"].texts[0]


def test_prompts_are_the_same_each_time():
    model = load_pretrained(testbed.checkpoint_dir(), "cpu", verbose=False)
    for processor in (None, model.processor):
        one, two = (make_prompts(model.cfg, processor) for _ in range(2))
        assert all(torch.equal(one[name].mel, two[name].mel) for name in one)
        assert all(torch.equal(one[name].tokens, two[name].tokens) for name in one)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_embedded_checkpoint_agrees(dtype):
    assert briefly(testbed.checkpoint_dir(), "cpu", dtype).verdict == AGREES


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_models_of_random_sizes_agree(tmp_path, seed, dtype):
    sizes = replace(Sizes.random(seed), tied=False)
    write(tmp_path, hub_names(hf_model(sizes, seed)), config=hf_config(sizes))
    assert briefly(tmp_path, "cpu", dtype).verdict == AGREES
