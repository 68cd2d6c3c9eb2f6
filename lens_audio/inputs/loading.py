"""The clips of prompts: which are of which row, as many as placeholders, as waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lens_audio.config import AudioTiming, PromptParts
from lens_audio.inputs.audio import Rate, is_clip, load_audio
from lens_audio.inputs.timing import Seconds

MOST_SECONDS = 24 * 3600.0  # of a recording of which a part is taken
ANY_SECONDS = MOST_SECONDS / 2  # of a clip, where the model has no limit of its own


def clip_rows(audio: Any, n_rows: int | None) -> list[list[Any]]:
    """The clips of each row. `n_rows` is None for one prompt that is not in a list."""
    if audio is None:
        return [[] for _ in range(n_rows or 1)]
    if not is_clip(audio) and not isinstance(audio, (list, tuple)):
        raise TypeError(
            f"audio must be a path, an open binary file, bytes, an array, a tensor, a pair "
            f"(array, rate), a dict with 'array' and 'sampling_rate' or a list of them, "
            f"not {type(audio).__name__}."
        )
    if n_rows is None:
        return [[audio] if is_clip(audio) else list(audio)]
    if is_clip(audio) or len(audio) != n_rows:
        found = "one clip" if is_clip(audio) else f"{len(audio)} entries"
        raise ValueError(
            f"{n_rows} prompts and {found} of audio: give a list with one entry a prompt, each a "
            f"clip, None or a list of clips."
        )
    rows: list[list[Any]] = []
    for entry in audio:
        several = isinstance(entry, (list, tuple)) and not is_clip(entry)
        rows.append([] if entry is None else list(entry) if several else [entry])
    return rows


def longest_clip(processor: Any, timing: AudioTiming) -> float:
    """The most seconds of a clip that a model hears: of its windows, and of those of its processor,
    which cuts what is longer to whole ones."""
    if timing.max_windows is None:
        return ANY_SECONDS
    extractor = processor.feature_extractor
    window = extractor.n_samples / extractor.sampling_rate
    longest = getattr(processor, "max_audio_len", timing.max_windows * window)
    return min(timing.max_windows, longest // window) * window


def check_placeholders(
    texts: Sequence[str], rows: Sequence[Sequence[Any]], processor: Any, parts: PromptParts
) -> None:
    """ValueError unless each text holds one audio placeholder for each of its row's clips, and no
    more clips than the model's processor takes."""
    n_clips = [len(clips) for clips in rows]
    if parts.max_clips is not None and max(n_clips, default=0) > parts.max_clips:
        raise ValueError(
            f"A prompt has {max(n_clips)} clips and this model's processor takes at most "
            f"{parts.max_clips} a prompt: ask about one, or join the recordings into one."
        )
    if parts.max_clips == 1 and len(set(n_clips)) > 1:
        raise ValueError(
            "Some of these prompts have a clip and others have none, and this model's processor takes "
            "one for each prompt or none at all: make the prompts without audio apart."
        )
    before, audio_token, behind = parts.clip(processor)
    for row, (text, clips) in enumerate(zip(texts, rows, strict=True)):
        found = text.count(audio_token)
        if found != len(clips):
            raise ValueError(
                f"Prompt {row} holds {found} {audio_token} placeholders and has {len(clips)} "
                f"clips: write {before}{audio_token}{behind} once for each clip."
            )


def load_clips(
    processor: Any,
    rows: Sequence[Sequence[Any]],
    sampling_rate: Rate | None,
    max_seconds: Seconds | None,
    timing: AudioTiming,
) -> list[Float[np.ndarray, " _"]]:
    """The clips of all rows, in order, as mono waveforms at the processor's rate."""
    extractor, longest = processor.feature_extractor, longest_clip(processor, timing)
    waveforms = []
    for row, clips in enumerate(rows):
        for number, clip in enumerate(clips):
            try:
                wave = load_audio(
                    clip,
                    sampling_rate,
                    target_rate=extractor.sampling_rate,
                    limit_seconds=longest,
                    max_seconds=max_seconds,
                    hop_length=extractor.hop_length,
                    timing=timing,
                )
            except (OSError, TypeError, ValueError) as error:
                error.add_note(f"(in the audio of prompt {row}, clip {number})")
                raise
            waveforms.append(wave)
    return waveforms
