"""What a data set's row holds as a clip; without torch, so that questions are read before it."""

from collections.abc import Mapping
from typing import Any


def plain_clip(audio: Any) -> Any:
    """What a data set's row holds as a pair (array, rate), bytes or a path; other clips as they are.

    Rows are {"array", "sampling_rate"}, {"bytes", "path"} or an `AudioDecoder` of torchcodec.
    """
    if isinstance(audio, Mapping):
        if audio.get("array") is not None and audio.get("sampling_rate") is not None:
            return audio["array"], audio["sampling_rate"]
        held = audio.get("bytes")
        held = audio.get("path") if held is None else held
        return audio if held is None else held
    if hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        return samples.data, samples.sample_rate
    return audio
