"""A transformers processor's output, which is a transformers model's input, as an AudioPrompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lens_audio.config import AudioModelConfig
from lens_audio.inputs.prompt import AudioPrompt

MEL_MASKS = ("feature_attention_mask", "input_features_mask")
READ = ("input_ids", "attention_mask", "input_features", *MEL_MASKS)
# They say again what the others say, or tell the reference how to go about it.
WITHOUT_EFFECT = (
    "num_audio_tokens",
    "audio_feature_lengths",
    "mm_token_type_ids",
    "token_type_ids",
    "use_cache",
    "return_dict",
)


def prompt_from_inputs(
    inputs: Mapping[str, Any], cfg: AudioModelConfig, processor: Any = None
) -> AudioPrompt:
    """A prompt of the keyword arguments that the transformers model itself takes.

    Args:
        inputs: `input_ids` [batch, pos], and as the model's processor makes them `attention_mask`,
            `input_features` [spectrogram, n_mels, mel_frame] and their mask [spectrogram, mel_frame]
            under the family's own name (`feature_attention_mask` or `input_features_mask`). Without
            a mask every frame is sound. Of a clip longer than a window, several spectrograms.
        cfg: `model.cfg` of the model to be asked.
        processor: whose they are, for `silenced` and `str_tokens`.

    Raises:
        ValueError: for arguments that this model has no use for, and what `AudioPrompt.from_tensors`
            raises.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    unknown = sorted(given.keys() - {*READ, *WITHOUT_EFFECT})
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: this model reads text and sound alone, from {', '.join(READ)}. "
            "Leave out images, videos and labels"
        )
    if "input_ids" not in given:
        raise ValueError(f"no input_ids among the inputs, which are {', '.join(sorted(given))}")
    tensors = {name: torch.as_tensor(value) for name, value in given.items() if name in READ}
    mel, extractor = tensors.get("input_features"), getattr(processor, "feature_extractor", None)
    rates: dict[str, Any] = {}
    if extractor is not None:
        rates = {"sampling_rate": extractor.sampling_rate, "hop_length": extractor.hop_length}
    return AudioPrompt.from_tensors(
        tensors["input_ids"],
        mel,
        None if mel is None else _mel_lengths(mel, tensors),
        tensors.get("attention_mask"),
        audio_token_id=cfg.audio_token_id,
        processor=processor,
        cfg=cfg,
        **rates,
    )


def _mel_lengths(mel: Tensor, tensors: Mapping[str, Tensor]) -> Int[Tensor, " spectrogram"]:
    masks = [tensors[name] for name in MEL_MASKS if name in tensors]
    if not masks:
        return torch.full((len(mel),), mel.shape[-1])
    mask = masks[0].bool()
    if mask.shape != (len(mel), mel.shape[-1]):
        raise ValueError(
            f"the mask of the features has shape {list(mask.shape)}; features of shape "
            f"{list(mel.shape)} need [{len(mel)}, {mel.shape[-1]}]"
        )
    lengths = mask.sum(-1)
    if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
        raise ValueError("the mask of the features has gaps: sound stands before its padding")
    return lengths
