"""What a data set's row holds as a clip; without torch, so that questions are read before it."""

from collections.abc import Mapping
from typing import Any

import numpy as np


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
