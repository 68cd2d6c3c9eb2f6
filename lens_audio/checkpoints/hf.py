"""From an in-memory transformers model, sharing its storage."""

from typing import Any

import torch
import torch.nn as nn

from lens_audio.checkpoints.qwen2_audio import QWEN2_AUDIO
from lens_audio.config import AudioModelConfig, as_list
from lens_audio.model.audio_transformer import HookedAudioTransformer


def from_hf(hf_model: Any, processor: Any = None) -> HookedAudioTransformer:
    """A HookedAudioTransformer over the weights of a `Qwen2AudioForConditionalGeneration`.

    Nothing is copied: a change to one model's weights is a change to the other's.

    Args:
        processor: the checkpoint's `Qwen2AudioProcessor`, for `prompt` and the text helpers.

    Raises:
        ValueError: for another architecture.
    """
    architecture = QWEN2_AUDIO.architecture
    if type(hf_model).__name__ != architecture:
        raise ValueError(f"from_hf reads a {architecture}, not a {type(hf_model).__name__}")
    weight = next(hf_model.parameters())
    cfg = AudioModelConfig.from_hf(hf_model.config, device=str(weight.device), dtype=weight.dtype)
    generation = getattr(hf_model, "generation_config", None)
    cfg.eos_token_ids = as_list(getattr(generation, "eos_token_id", None)) or cfg.eos_token_ids
    embedding = hf_model.get_input_embeddings().weight
    cfg.tie_word_embeddings = hf_model.get_output_embeddings().weight is embedding
    tokenizer = getattr(processor, "tokenizer", None)
    with torch.device("meta"):
        model = HookedAudioTransformer(cfg, tokenizer, processor)
    for name, parameter in hf_model.named_parameters():  # a tied head comes once, as embedding
        ours = QWEN2_AUDIO.our_names(name)
        if ours is None:
            raise ValueError(f"{name} is no tensor of {architecture}")
        assign(model, ours[0], parameter)
    if cfg.tie_word_embeddings:
        model.unembed.lm_head.weight = model.embed.W_E
    return model.eval()


def assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter into its place in the model."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)
