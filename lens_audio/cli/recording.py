"""The part of a recording that is asked about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_audio.inputs.audio import load_audio, stored_seconds
from lens_audio.inputs.loading import MOST_SECONDS, longest_clip
from lens_audio.inputs.timing import Seconds


@dataclass(frozen=True)
class Excerpt:
    """Samples from `start` to `end`, in seconds, of a recording that lasts `total` seconds."""

    samples: Float[np.ndarray, " samples"]
    rate: int
    start: float
    total: float  # 0 where the file does not say

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    @property
    def said(self) -> str:
        """`first 4.00 of 8.32 s`, `1.00 to 3.00 of 8.32 s`, or `8.32 s` of a whole recording."""
        end = self.start + self.seconds
        total = f" of {self.total:.2f}" if self.total > end + 0.005 or self.start else ""
        if self.start:
            return f"{self.start:.2f} to {end:.2f}{total} s"
        return f"first {end:.2f}{total} s" if total else f"{end:.2f} s"

    def within(self, span: tuple[float, float] | None) -> tuple[float, float] | None:
        """Start and end, in the recording's seconds, as far as they lie within, in the excerpt's."""
        if span is None:
            return None
        start, end = (min(max(t - self.start, 0.0), self.seconds) for t in span)
        return (start, end) if end > start else None


def heard_seconds(checkpoint: Any) -> float:
    """How much of a recording the model hears."""
    return longest_clip(checkpoint.processor, checkpoint.cfg.audio)


def read_excerpt(
    audio: Any, checkpoint: Any, start: float | None, end: float | None, at_most: Seconds | None
) -> Excerpt:
    """A file's or (samples, rate)'s part from `start` to `end`, or its first `at_most` seconds from there.

    Raises:
        OSError, ValueError: for what is no recording, ends before `start`, or is longer than the
            model hears; in the words of the command line.
    """
    rate, hears = checkpoint.processor.feature_extractor.sampling_rate, heard_seconds(checkpoint)
    first = start or 0.0
    if at_most is not None and at_most > hears:
        raise ValueError(
            f"--max-seconds can be at most {hears:g}, the longest that this model hears, not {at_most:g}"
        )
    limit = hears if at_most is None else at_most
    until = first + limit + 1 / rate if at_most is None else first + limit
    until = until if end is None else min(end, until)
    samples = load_audio(audio, target_rate=rate, limit_seconds=MOST_SECONDS, max_seconds=until)
    total = max(stored_seconds(audio), len(samples) / rate)
    samples = samples[round(first * rate) : round(until * rate)]
    name = audio.name if isinstance(audio, Path) else "the recording"
    if not len(samples):
        raise ValueError(
            f"{name} lasts {total:.3f} s, so nothing of it comes after --start {first:g}"
        )
    if at_most is None and len(samples) > hears * rate:
        lasts = (end or total) - first
        raise ValueError(
            f"{name} lasts {lasts:.2f} s{' from --start to its end' if start else ''}, but the model "
            f"hears at most {hears:g} s; --max-seconds {hears:g} keeps the beginning, --start and "
            "--end (in seconds) choose any part"
        )
    return Excerpt(samples, rate, first, total)
