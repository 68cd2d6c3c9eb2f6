"""A family of one file and one line of the table loads: by folder, from memory, with its own prompts."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from checkpoint_folder import SIZES, load, write
from models import hf_config, hf_inputs, hf_model, make_prompt
from transformers import Qwen2AudioForConditionalGeneration

import lens_audio as la
from lens_audio.checkpoints import FAMILIES, Family, families
from lens_audio.checkpoints.families import family_of
from lens_audio.checkpoints.families.qwen2_audio import QWEN2_AUDIO
from lens_audio.checkpoints.family import InTransformers
from lens_audio.config import PromptParts


class AcmeAudioModel(Qwen2AudioForConditionalGeneration):
    """Another architecture's class: its parts are under `acme`, and two matrices are one."""

    def __init__(self, config):
        super().__init__(config)
        self.acme = self.model
        del self.model
        for layer in self.acme.language_model.layers:
            mlp = layer.mlp
            mlp.gate_up = nn.Parameter(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
            del mlp.gate_proj, mlp.up_proj

    def get_input_embeddings(self):
        return self.acme.language_model.embed_tokens


ACME = Family(
    name="Acme-Audio",
    architectures=("AcmeAudioModel", "AcmeAudioChatModel"),
    model_types=("acme_audio", "acme_audio_chat"),
    read_config=QWEN2_AUDIO.read_config,
    read_processor=QWEN2_AUDIO.read_processor,
    names={
        "language_model.model.layers.*.mlp.gate_up": (
            "blocks.*.mlp.gate_proj.weight",
            "blocks.*.mlp.up_proj.weight",
        ),
        "ears.*.statistics": (),
        **QWEN2_AUDIO.names,
    },
    aliases={r"^acme\.": ""} | dict(QWEN2_AUDIO.aliases),
    fields=QWEN2_AUDIO.fields,
    prompt_parts=PromptParts(
        placeholder="sound", opening=None, closing=None, mel_mask="sound_frames"
    ),
    in_transformers=InTransformers(
        decoder="acme.language_model",
        encoder_blocks="acme.audio_tower.layers",
        encoder_out="acme.audio_tower.layer_norm",
        projector="acme.multi_modal_projector",
        classes=SimpleNamespace(AcmeAudioModel=AcmeAudioModel),
    ),
)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", [*FAMILIES, ACME])


@pytest.fixture(scope="module")
def original():
    return hf_model(SIZES)


@pytest.fixture
def acme(original):
    model = AcmeAudioModel(hf_config(SIZES)).eval()
    weights = {re.sub(r"^model\.", "acme.", n): w for n, w in original.state_dict().items()}
    for name in [name for name in weights if name.endswith("mlp.gate_proj.weight")]:
        both = [weights.pop(name), weights.pop(name.replace("gate", "up"))]
        weights[name.replace("gate_proj.weight", "gate_up")] = torch.cat(both)
    model.load_state_dict(weights)
    return model


@torch.no_grad()
def assert_same(ours, original):
    prompt = make_prompt(SIZES)
    expected = original(**hf_inputs(prompt)).logits
    torch.testing.assert_close(ours(prompt), expected, atol=1e-4, rtol=0)


@pytest.fixture
def folder(acme, tmp_path):
    tensors = {name: tensor.contiguous().clone() for name, tensor in acme.state_dict().items()}
    return write(tmp_path, tensors | {"ears.0.statistics": torch.zeros(3)})


def rename(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    "named",
    [
        {"model_type": "acme_audio", "architectures": None},
        {"model_type": "acme_audio_chat", "architectures": []},
        {"model_type": "qwen2_audio", "architectures": ["AcmeAudioChatModel"]},
    ],
)
def test_a_folder_is_loaded_by_any_of_its_model_types_and_architectures(folder, original, named):
    rename(folder, **named)
    assert_same(load(folder), original)


def test_a_model_in_memory_is_loaded_by_its_class(acme, original):
    ours = la.HookedAudioTransformer.from_hf(acme)
    assert_same(ours, original)
    assert ours.cfg.prompt_parts == ACME.prompt_parts


def test_the_family_of_the_nearest_class_counts(acme, original):
    """Of a class that descends from two families' it is the nearer one's."""
    acme.__class__ = type("Mine", (AcmeAudioModel,), {})
    assert_same(la.HookedAudioTransformer.from_hf(acme), original)


@torch.no_grad()
def test_a_fused_tensor_in_memory_is_shared_in_its_parts(acme):
    ours = la.HookedAudioTransformer.from_hf(acme)
    gate_up = acme.acme.language_model.layers[1].mlp.gate_up.mul_(2)
    mlp = ours.blocks[1].mlp
    assert torch.equal(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), gate_up)


def test_an_unknown_architecture_is_told_all_there_are():
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(ValueError, match="LlamaForCausalLM") as error:
        family_of(config)
    for family in families.FAMILIES:
        assert family.name in str(error.value)
        assert all(name in str(error.value) for name in family.architectures)


def test_a_model_in_memory_of_no_family_is_told_those_that_can_be_there():
    with pytest.raises(ValueError, match="not a Linear") as error:
        la.HookedAudioTransformer.from_hf(torch.nn.Linear(2, 2))
    assert "Qwen2AudioForConditionalGeneration" in str(error.value)
    assert "AcmeAudioModel" in str(error.value)
    assert "QWenLMHeadModel" not in str(error.value)  # which only remote code has


class AcmeProcessor:
    """The embedded checkpoint's processor under names of its own, without edges around a clip."""

    def __init__(self, processor):
        self.inner, self.sound = processor, processor.audio_token
        self.tokenizer, self.feature_extractor = processor.tokenizer, processor.feature_extractor
        self.chat_template = processor.chat_template
        self.apply_chat_template = processor.apply_chat_template

    def __call__(self, **options):
        made = self.inner(**options)
        if "feature_attention_mask" in made:
            made["sound_frames"] = made.pop("feature_attention_mask")
        return made


def test_prompts_are_made_by_the_familys_names_of_their_parts():
    embedded = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")
    item = la.testbed.demo_item()
    audio = {"audio": item.waveform, "sampling_rate": 16000}
    expected = embedded.prompt(item.question, **audio)
    embedded.processor = AcmeProcessor(embedded.processor)
    embedded.cfg.prompt_parts = ACME.prompt_parts
    found = embedded.prompt(item.question, **audio)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.mel_lengths, expected.mel_lengths)
    assert torch.equal(found.with_audio(**audio).audio_mask, expected.audio_mask)
    with pytest.raises(ValueError, match=r"write <\|AUDIO\|> once for each clip"):
        embedded.prompt(raw="no place", **audio)
