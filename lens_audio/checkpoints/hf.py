"""From an in-memory transformers model, sharing its storage."""

from typing import Any

import torch
import torch.nn as nn

from lens_audio.checkpoints.qwen2_audio import ARCHITECTURE, our_name
from lens_audio.config import AudioModelConfig
from lens_audio.model.audio_transformer import HookedAudioTransformer


def from_hf(hf_model: Any, processor: Any = None) -> HookedAudioTransformer:
    """A HookedAudioTransformer over the weights of a `Qwen2AudioForConditionalGeneration`.

    Nothing is copied: a change to one model's weights is a change to the other's.

    Args:
        processor: the checkpoint's `Qwen2AudioProcessor`, for `prompt` and the text helpers.

    Raises:
        ValueError: for another architecture.
    """
    if type(hf_model).__name__ != ARCHITECTURE:
        raise ValueError(f"from_hf reads a {ARCHITECTURE}, not a {type(hf_model).__name__}")
    weight = next(hf_model.parameters())
    cfg = AudioModelConfig.from_hf(hf_model.config, device=str(weight.device), dtype=weight.dtype)
    cfg.eos_token_ids = _eos_token_ids(hf_model) or cfg.eos_token_ids
    embedding = hf_model.get_input_embeddings().weight
    cfg.tie_word_embeddings = hf_model.get_output_embeddings().weight is embedding
    tokenizer = getattr(processor, "tokenizer", None)
    with torch.device("meta"):
        model = HookedAudioTransformer(cfg, tokenizer, processor)
    for name, parameter in hf_model.named_parameters():  # a tied head comes once, as embedding
        ours = our_name(name)
        if ours is None:
            raise ValueError(f"{name} is no tensor of {ARCHITECTURE}")
        assign(model, ours, parameter)
    if cfg.tie_word_embeddings:
        model.unembed.lm_head.weight = model.embed.W_E
    return model.eval()


def assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter into its place in the model."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


def _eos_token_ids(hf_model: nn.Module) -> list[int]:
    eos = getattr(getattr(hf_model, "generation_config", None), "eos_token_id", None)
    return [eos] if isinstance(eos, int) else list(eos or [])
