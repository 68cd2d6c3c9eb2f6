"""The published sizes of every family, on the meta device, beside transformers' own models of them."""

import runpy
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from published_configs import PUBLISHED
from torch import nn

from lens_audio.checkpoints.families import family_of

COUNT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "parameters.py"))


@cache
def ours(name: str) -> Counter[str]:
    return COUNT["count_by_part"](COUNT["meta_model"](PUBLISHED[name]))


def transformers_model(config: dict[str, Any]) -> Any:
    """transformers' model of a config.json, without weights."""
    model_class = family_of(config).model_class(config["architectures"][0])
    with torch.device("meta"):
        return model_class(model_class.config_class.from_dict(config.get("thinker_config", config)))


def count(*modules: nn.Module) -> int:
    """Parameters of these modules; those that they share count once."""
    return sum({p: p.numel() for module in modules for p in module.parameters()}.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_part_has_as_many_parameters_as_in_transformers(name):
    hf = transformers_model(PUBLISHED[name])
    decoder, tower = hf.model.language_model, hf.model.audio_tower
    projector = getattr(tower, "proj", None) or hf.model.multi_modal_projector  # Omni's is inside
    unread = getattr(tower, "audio_bos_eos_token", None)  # by its own forward, and so not loaded
    inside = [m for m in (getattr(tower, "proj", None), unread) if m is not None]
    assert ours(name) == {
        "embeddings": count(hf.get_input_embeddings(), hf.get_output_embeddings()),
        "decoder": count(decoder.layers, decoder.norm),
        "encoder": count(tower) - count(*inside),
        "projector": count(projector),
    }


# In billions. Voxtral: arXiv 2507.13264. Qwen2-Audio: its card.
SAID = {"Qwen2-Audio-7B": 8.4, "Voxtral Mini 3B": 4.7, "Voxtral Small 24B": 24.3}


@pytest.mark.parametrize("name", SAID)
def test_as_many_as_its_authors_say(name):
    assert round(ours(name).total() / 1e9, 1) == SAID[name]


def test_as_many_as_the_file_of_qwen3_asr_holds():
    n_bytes = 4_076_193_080  # model.safetensors of Qwen/Qwen3-ASR-1.7B-hf, in bfloat16
    header = n_bytes - 2 * ours("Qwen3-ASR 1.7B").total()
    assert 0 < header < 2**17
