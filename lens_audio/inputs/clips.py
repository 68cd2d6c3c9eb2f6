"""Clips as data sets hold them, and noise like one; without torch, so that questions are read before it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float


def noise_like(waveform: Float[np.ndarray, " sample"], seed: int) -> Float[np.ndarray, " sample"]:
    """Gaussian white noise with the length and the root mean square of a waveform."""
    noise = np.random.default_rng(seed).standard_normal(len(waveform))
    scale = np.sqrt(np.square(waveform, dtype=np.float64).mean() / np.square(noise).mean())
    return (scale * noise).astype(np.float32)


def plain_clip(audio: Any) -> Any:
    """What a data set's row holds as a pair (array, rate), bytes or a path; other clips as they are.

    Rows are {"array", "sampling_rate"}, {"bytes", "path"} or an `AudioDecoder` of torchcodec.
    """
    if isinstance(audio, Mapping):
        samples, rate = audio.get("array"), audio.get("sampling_rate")
        if samples is not None and rate is not None:
            # A row that was stored has a list, one that went through a collator a tensor as rate.
            rate = rate.item() if hasattr(rate, "item") and np.ndim(rate) == 0 else rate
            return np.asarray(samples) if isinstance(samples, list) else samples, rate
        held = audio.get("bytes")
        held = audio.get("path") if held is None else held
        return audio if held is None else held
    if hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        return samples.data, samples.sample_rate
    return audio
