"""What a checkpoint's processor makes of texts and waveforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.config import AudioTiming, PromptParts

AUDIO_TOKEN_ID = 151646  # <|AUDIO|> in Qwen2-Audio's vocabulary


def whole_clips(
    processor: Any, waveforms: Sequence[Float[np.ndarray, " _"]]
) -> list[Float[np.ndarray, " _"]]:
    """Clips with the silence that the feature extractor adds to short ones and counts as sound."""
    shortest = getattr(processor.feature_extractor, "min_length", 0)  # samples
    return [
        np.pad(wave, (0, shortest - len(wave))) if len(wave) < shortest else wave
        for wave in waveforms
    ]


def processed(
    processor: Any,
    texts: Sequence[str],
    waveforms: Sequence[Float[np.ndarray, " _"]],
    padding_side: str,
    timing: AudioTiming,
    parts: PromptParts,
) -> tuple[
    Int[Tensor, "batch pos"],
    Bool[Tensor, "batch pos"],
    Float[Tensor, "audio mel frame"] | None,
    Int[Tensor, " audio"] | None,
]:
    """Tokens, their attention mask, and of waveforms the mel features and their valid frames."""
    inputs = processor(
        text=list(texts),
        audio=list(waveforms) or None,
        return_tensors="pt",
        **_options(processor.feature_extractor, waveforms, padding_side, timing),
    )
    mel = inputs.get("input_features")
    return inputs["input_ids"], inputs["attention_mask"].bool(), mel, _mel_lengths(inputs, parts)


def features_of_silence(
    processor: Any, n_samples: Sequence[int], like: Float[Tensor, "audio mel frame"]
) -> Float[Tensor, "audio mel frame"]:
    """The features of as many zero samples for each clip, of the shape, type and device of others.

    Raises:
        ValueError: where the processor makes features of another shape.
    """
    extractor = processor.feature_extractor
    # Qwen3-ASR's makes a spectrogram of the longest clip, and fills its last chunk with zeros.
    fills_chunks = hasattr(extractor, "n_window")

    def features_of(n_samples: Sequence[int]) -> Float[Tensor, "clip mel frame"]:
        return extractor(
            [np.zeros(n, dtype=np.float32) for n in n_samples],
            sampling_rate=extractor.sampling_rate,
            padding="longest" if fills_chunks else "max_length",
            max_length=like.shape[2] * extractor.hop_length,
            return_tensors="pt",
        )["input_features"]

    features = features_of(n_samples)
    if fills_chunks and features.shape[2] < like.shape[2]:  # beside a longer clip that is not here
        longer = like.shape[2] * extractor.hop_length
        features = features_of([*n_samples, longer])[:-1]
    if features.shape != like.shape:
        raise ValueError(
            f"The processor makes features of shape {list(features.shape)} and this prompt's "
            f"are {list(like.shape)}: pass the processor that made them."
        )
    return features.to(like)


def audio_token_id_of(processor: Any, tokenizer: Any, parts: PromptParts) -> int:
    """Id of the audio placeholder: the tokenizer's, or Qwen2-Audio's where there is none."""
    if tokenizer is None:
        return AUDIO_TOKEN_ID
    token = getattr(processor, parts.placeholder, "<|AUDIO|>")
    if token not in tokenizer.get_vocab():
        raise ValueError(
            f"The tokenizer has no token {token!r}: load the tokenizer of an audio model, or give "
            f"audio_token_id= or audio_mask=."
        )
    return int(tokenizer.convert_tokens_to_ids(token))


def _options(
    extractor: Any,
    waveforms: Sequence[Float[np.ndarray, " _"]],
    padding_side: str,
    timing: AudioTiming,
) -> dict[str, Any]:
    """What a processor is asked for: texts padded to the longest; windows to their whole length; clips
    of any length to whole chunks, one more than the longest needs.

    Qwen2.5-Omni's own pads to five minutes, of which its encoder reads nothing, and cuts there.
    """
    text, audio = {"padding": True, "padding_side": padding_side}, {}
    audio["sampling_rate"] = extractor.sampling_rate
    if timing.max_windows is None and len(waveforms):
        chunk = (timing.chunk_frames or 1) * extractor.hop_length
        audio["max_length"] = chunk * (max(map(len, waveforms)) // chunk + 2)
    elif timing.mel_per_window is not None:
        audio["padding"] = "max_length"
    else:
        return text | audio
    return {"text_kwargs": text, "audio_kwargs": audio}


def _mel_lengths(inputs: Mapping[str, Any], parts: PromptParts) -> Int[Tensor, " audio"] | None:
    """Valid mel frames of each clip, of what a processor made; all of them where it has no mask."""
    mel = inputs.get("input_features")
    if mel is None:
        return None
    if parts.mel_mask is None:
        return torch.full((len(mel),), mel.shape[-1])
    return inputs[parts.mel_mask].sum(-1)
