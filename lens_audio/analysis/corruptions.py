"""Corrupted recordings of the same length: silence, noise at a given SNR, shuffled time."""

from collections.abc import Callable

import numpy as np
import torch
import torchaudio.functional as AF
from jaxtyping import Float

from lens_audio.inputs import AudioPrompt


def silence(prompt: AudioPrompt) -> AudioPrompt:
    """The prompt with digital silence for every clip (`prompt.silenced()`)."""
    return prompt.silenced()


def add_noise(prompt: AudioPrompt, snr_db: float, seed: int = 0) -> AudioPrompt:
    """White noise added to every clip at a signal-to-noise ratio in decibels.

    Raises:
        ValueError: for a prompt without waveforms, a clip of silence, or an infinite ratio.
    """
    if not np.isfinite(snr_db):
        raise ValueError(f"snr_db must be finite, not {snr_db}; for no sound at all use silence()")
    rng = np.random.default_rng(seed)

    def corrupt(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
        if not np.any(waveform):
            raise ValueError("a clip is silent, so no signal-to-noise ratio is defined for it")
        noise = rng.standard_normal(len(waveform)).astype(np.float32)
        noisy = AF.add_noise(
            torch.from_numpy(waveform.copy()), torch.from_numpy(noise), torch.tensor(snr_db)
        )
        return noisy.numpy()

    return _each_clip(prompt, corrupt)


def shuffle_time(prompt: AudioPrompt, segment_seconds: float = 0.25, seed: int = 0) -> AudioPrompt:
    """Every clip cut into segments put together in another order; a shorter last one stays last.

    Raises:
        ValueError: for segments of which a clip does not hold two.
    """
    length = round(segment_seconds * prompt.sampling_rate)
    rng = np.random.default_rng(seed)

    def corrupt(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
        n_segments = len(waveform) // length if length > 0 else 0
        if n_segments < 2:
            seconds = len(waveform) / prompt.sampling_rate
            raise ValueError(
                f"a clip of {seconds:.2f} s does not hold two segments of {segment_seconds} s"
            )
        order = rng.permutation(n_segments)
        while np.array_equal(order, np.arange(n_segments)):
            order = rng.permutation(n_segments)
        whole = waveform[: n_segments * length].reshape(n_segments, length)[order].reshape(-1)
        return np.concatenate([whole, waveform[n_segments * length :]])

    return _each_clip(prompt, corrupt)


def _each_clip(prompt: AudioPrompt, corrupt: Callable[[np.ndarray], np.ndarray]) -> AudioPrompt:
    if prompt.waveforms is None:
        raise ValueError("the prompt was made from tensors and has no waveforms to corrupt")
    clips = [corrupt(waveform) for waveform in prompt.waveforms]
    rows = [[clips[clip] for clip in prompt.clips_of(row)] for row in range(len(prompt))]
    audio = rows[0] if len(rows) == 1 else rows
    return prompt.with_audio(audio, sampling_rate=prompt.sampling_rate)
