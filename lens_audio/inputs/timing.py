"""Time and audio tokens: which part of a clip each audio token hears.

The encoder turns mel frames into audio tokens in two halving steps (a convolution of stride 2,
then an average pool of 2), so one token stands for four frames: 4 x 160 samples = 40 ms at
16 kHz. Token k of a clip covers [4 k hop / rate, 4 (k+1) hop / rate) seconds, and the last token
of a clip ends exactly where the clip ends: it takes the frames left over, or lacks them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

FRAMES_PER_TOKEN = 4
MIN_MEL_FRAMES = 3  # the fewest frames that make an audio token
_DECIMALS = 9  # times are compared to the nanosecond, so 0.56 + 0.04 is 0.6

Seconds = int | float


def seconds_per_token(hop_length: int = 160, sampling_rate: int = 16000) -> float:
    """Seconds that one audio token covers: 0.04 at hop 160 and 16 kHz."""
    return FRAMES_PER_TOKEN * hop_length / sampling_rate


def token_spans(
    n_tokens: int, seconds: Seconds, hop_length: int = 160, sampling_rate: int = 16000
) -> Float[Tensor, "token 2"]:
    """Start and end in seconds (float64) of each of a clip's `n_tokens` tokens.

    The spans are contiguous, begin at 0 and end at `seconds`, the clip's own length.
    """
    edges = torch.arange(n_tokens + 1, dtype=torch.float64) * (FRAMES_PER_TOKEN * hop_length)
    edges = edges / sampling_rate
    edges[-1] = seconds
    return torch.stack([edges[:-1], edges[1:]], dim=1)


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
