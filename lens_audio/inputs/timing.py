"""Time and audio tokens: which part of a clip each audio token hears.

What depends on the encoder is asked of its config, or of the prompt's `timing`
(`lens_audio.config.AudioTiming`). The first three functions here are Qwen2-Audio's: a convolution of
stride 2, then a pool of 2, so one token stands for four mel frames, 4 x 160 samples = 40 ms at 16 kHz.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.config import AudioTiming, Count

_DECIMALS = 9  # times are compared to the nanosecond, so 0.56 + 0.04 is 0.6

Seconds = int | float


def n_audio_tokens(mel_frames: Count) -> Count:
    """`AudioTiming.n_tokens` of Qwen2-Audio: 750 tokens for 3000 mel frames."""
    return AudioTiming().n_tokens(mel_frames)


def seconds_per_token(hop_length: int = 160, sampling_rate: int = 16000) -> float:
    """`AudioTiming.seconds_per_token` of Qwen2-Audio: 0.04 at hop 160 and 16 kHz."""
    return AudioTiming().seconds_per_token(hop_length, sampling_rate)


def token_spans(
    n_tokens: int, seconds: Seconds, hop_length: int = 160, sampling_rate: int = 16000
) -> Float[Tensor, "token 2"]:
    """`AudioTiming.token_spans` of Qwen2-Audio: start and end of each token, in seconds."""
    return AudioTiming().token_spans(n_tokens, seconds, hop_length, sampling_rate)


def tokens_between(
    spans: Float[Tensor, "token 2"], start: Seconds, end: Seconds
) -> Int[Tensor, " found"]:
    """Indices of the tokens that overlap [start, end) seconds of the clip with these `spans`.

    Raises ValueError for an empty or reversed span and for one that leaves the clip.
    """
    seconds = float(spans[-1, 1])
    start, end = round(float(start), _DECIMALS), round(float(end), _DECIMALS)
    if not start < end:
        raise ValueError(
            f"The time span {start} to {end} s is empty: give start < end, in seconds."
        )
    if start < 0 or end > round(seconds, _DECIMALS):
        raise ValueError(
            f"The time span {start} to {end} s leaves the clip, which lasts from 0 to "
            f"{seconds:g} s."
        )
    begins, ends = torch.round(spans, decimals=_DECIMALS).unbind(1)
    return torch.nonzero((begins < end) & (ends > start)).flatten()
