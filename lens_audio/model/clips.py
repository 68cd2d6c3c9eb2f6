"""Which spectrograms are of which row, and which of them are windows of one clip."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_audio.config import AudioTiming


def spectrograms_by_row(
    audio_mask: Bool[Tensor, "batch pos"],
    mel_lengths: Int[Tensor, " audio"] | None,
    timing: AudioTiming,
) -> list[range]:
    """For each row, the range of its spectrograms among all, which are flat in row order.

    A clip is one spectrogram, or several (`windows_by_clip`).

    Raises ValueError unless each row's audio tokens are made up exactly by whole clips in order.
    """
    counts = [] if mel_lengths is None else timing.n_tokens(mel_lengths).tolist()
    lengths = [] if mel_lengths is None else mel_lengths.tolist()
    is_full = [length == timing.mel_per_window for length in lengths]
    rows, clip = [], 0
    for row, wanted in enumerate(audio_mask.sum(1).tolist()):
        first, found = clip, 0
        while found < wanted and clip < len(counts):
            found, clip = found + counts[clip], clip + 1
        while first < clip < len(counts) and not counts[clip] and is_full[clip - 1]:
            clip += 1  # a last window that is too short for a token
        if found != wanted:
            raise ValueError(
                f"Row {row} holds {wanted} audio tokens, and its clips, from clip {first} on, make "
                f"{counts[first:clip]} = {found} ({_totals(audio_mask, counts)}). {_ADVICE}"
            )
        rows.append(range(first, clip))
    if clip != len(counts):
        raise ValueError(
            f"{len(counts) - clip} of the {len(counts)} clips have no audio tokens "
            f"({_totals(audio_mask, counts)}). {_ADVICE}"
        )
    return rows


def windows_by_clip(
    audio_mask: Bool[Tensor, "batch pos"],
    mel_lengths: Int[Tensor, " audio"] | None,
    timing: AudioTiming,
) -> list[list[range]]:
    """For each row, the spectrograms of each of its clips.

    Where the timing cuts long clips into windows, a clip goes on in the next spectrogram while this
    one is full and their audio tokens follow each other. A last window may be too short for a token.
    """
    rows = spectrograms_by_row(audio_mask, mel_lengths, timing)
    if mel_lengths is None or timing.mel_per_window is None:
        return [[range(one, one + 1) for one in row] for row in rows]
    counts, lengths = timing.n_tokens(mel_lengths).tolist(), mel_lengths.tolist()
    clips = []
    for row, mask in zip(rows, audio_mask, strict=True):
        places = torch.nonzero(mask).flatten().tolist()
        found: list[range] = []
        first = 0  # audio token of the spectrogram
        for one in row:
            goes_on = bool(found) and lengths[one - 1] == timing.mel_per_window
            if goes_on and counts[one]:
                goes_on = places[first] == places[first - 1] + 1
            if goes_on:
                found[-1] = range(found[-1].start, one + 1)
            else:
                found.append(range(one, one + 1))
            first += counts[one]
        clips.append(found)
    return clips


def window_numbers(
    audio_mask: Bool[Tensor, "batch pos"],
    mel_lengths: Int[Tensor, " audio"],
    timing: AudioTiming,
) -> Int[Tensor, " audio"]:
    """Of every spectrogram, which window of its clip it is, from 0."""
    clips = [clip for row in windows_by_clip(audio_mask, mel_lengths, timing) for clip in row]
    return torch.tensor([number for clip in clips for number in range(len(clip))])


_ADVICE = (
    "Give one mel (with its mel_lengths) for each clip of the prompt, in row order, and either one "
    "audio token a clip, which is expanded, or the clip's whole count (model.cfg.audio.n_tokens)."
)


def _totals(audio_mask: Bool[Tensor, "batch pos"], counts: list[int]) -> str:
    return f"in all: {int(audio_mask.sum())} audio tokens, {len(counts)} clips of {sum(counts)}"
