"""Audio in: a file, an array or a tensor becomes one mono float32 waveform at the model's rate."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

from lens_audio.config import AudioTiming
from lens_audio.inputs.clips import plain_clip
from lens_audio.inputs.containers import SeekableFile
from lens_audio.inputs.decode import path_seconds, read_path, read_stream, stream_seconds
from lens_audio.inputs.timing import Seconds

Samples = np.ndarray | Tensor
Rate = SupportsIndex | float  # a whole number of Hz
Clip = str | os.PathLike | SeekableFile | bytes | Samples | tuple[Samples, Rate] | Mapping
"""What one clip may be: a path, an open file, a file's bytes, samples, samples with their sampling
rate, or what Hugging Face data sets hold (also, not named here, the decoder of torchcodec)."""

MAX_CHANNELS = 8  # of an array: more than 7.1 surround is a batch of clips, not one clip
MAX_RATE = 1_000_000  # Hz
MAX_PEAK = 100.0  # float samples beyond this are integers that nobody scaled
_MAX_KERNEL = 2**20  # torchaudio's resampling kernel is dense: rate * target / gcd**2 numbers


def is_clip(audio: object) -> bool:
    """Whether `audio` is of a kind that `load_audio` takes (not whether it can be read)."""
    if isinstance(audio, tuple):
        return len(audio) == 2 and _is_samples(audio[0]) and isinstance(audio[1], numbers.Number)
    if isinstance(audio, Mapping):
        plain = plain_clip(audio)
        return not isinstance(plain, Mapping) and is_clip(plain)
    return (
        isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview))
        or (isinstance(audio, SeekableFile) and not isinstance(audio, TextIOBase))
        or _is_samples(audio)
        or hasattr(audio, "get_all_samples")
    )


def load_audio(
    audio: Any,
    sampling_rate: Rate | None = None,
    *,
    target_rate: int = 16000,
    limit_seconds: Seconds = 30.0,
    max_seconds: Seconds | None = None,
    hop_length: int = 160,
    timing: AudioTiming | None = None,
) -> Float[np.ndarray, " samples"]:
    """One clip as mono float32 samples at `target_rate` Hz, resampled with torchaudio if need be.

    `audio` is an audio file (wav, flac, mp3, ogg, opus, m4a, mp4, webm, wma and others that FFmpeg
    decodes) as a path, an open file or its bytes; the file's own rate counts. Or it is a numpy array
    or torch tensor at `sampling_rate` Hz, a pair (array, rate), or what Hugging Face data sets hold:
    {"array", "sampling_rate"}, {"bytes", "path"}, a torchcodec decoder. Arrays are `[samples]`,
    `[channels, samples]` or `[samples, channels]` (the smaller dimension is channels, at most 8),
    of a floating dtype within [-1, 1] or int16, which is scaled to [-1, 1]. Channels are averaged.
    Of a video its default sound track is taken. `max_seconds` keeps the first seconds of a longer
    clip; what comes after them is not decoded.

    A file is decoded to its end, whatever its header says. Up to 1% of it may be damaged: that is
    left out with a UserWarning.

    Raises FileNotFoundError, IsADirectoryError, TypeError (not a clip at all) and ValueError:
    damaged, truncated or non-audio files, samples that are missing, NaN, infinite or out of range,
    a wrong or missing rate, clips longer than `limit_seconds` (nothing is cut unless asked) or too
    short for one audio token of `timing`, which is a model's `cfg.audio` (default: Qwen2-Audio's,
    2 hops + 1 samples).
    """
    keep = _seconds_to_keep(max_seconds, limit_seconds)
    if not is_clip(audio):
        raise TypeError(
            f"A clip must be a path, an open binary file, a file's bytes, a numpy array, a torch "
            f"tensor, a pair (array, rate) or a dict with 'array' and 'sampling_rate' or with "
            f"'bytes' or 'path', not {type(audio).__name__}."
        )
    audio = plain_clip(audio)
    if isinstance(audio, tuple):
        audio, sampling_rate = audio
    if isinstance(audio, (np.ndarray, Tensor)):
        rate = _check_rate(sampling_rate)
        channels = _read_array(audio)
        n_samples = len(channels)
    else:
        channels, rate, n_samples = _read_file(audio, keep, limit_seconds)
    if keep is not None:
        channels = channels[: _n_samples(keep, rate)]
    elif n_samples > limit_seconds * rate:
        raise ValueError(
            f"The clip lasts {n_samples / rate:.6g} s and the model hears at most "
            f"{limit_seconds:g} s. Pass max_seconds={limit_seconds:g} to keep its beginning, or "
            f"cut out the part you want: samples[int(start * rate) : int(end * rate)]."
        )
    wave = _resample(_to_mono(channels), rate, target_rate)
    shortest = ((timing or AudioTiming()).min_mel_frames - 1) * hop_length + 1
    if len(wave) < shortest:
        raise ValueError(
            f"The clip is too short to make one audio token: {len(wave)} samples at {target_rate} "
            f"Hz, and at least {shortest} ({shortest / target_rate:.3g} s) are needed. "
            f"Give a longer clip or pad it with zeros."
        )
    return wave


def stored_seconds(audio: Any) -> float:
    """How long a clip lasts: samples counted, a file by its header, 0 where that does not say.

    Raises OSError for a path that cannot be opened.
    """
    audio = plain_clip(audio)
    if isinstance(audio, tuple):
        return max(np.shape(audio[0]), default=0) / audio[1]
    if isinstance(audio, (str, os.PathLike)):
        return path_seconds(Path(audio).expanduser())
    return stream_seconds(_opened(audio))


def _opened(audio: Any) -> SeekableFile:
    in_memory = isinstance(audio, (bytes, bytearray, memoryview))
    return BytesIO(audio) if in_memory else audio


def _is_samples(audio: object) -> bool:
    return isinstance(audio, (np.ndarray, Tensor))


def _n_samples(seconds: Seconds, rate: int) -> int:
    return int(round(seconds * rate, 6))


def _seconds_to_keep(max_seconds: Seconds | None, limit_seconds: Seconds) -> Seconds | None:
    if max_seconds is not None and not 0 < max_seconds <= limit_seconds:
        raise ValueError(
            f"max_seconds={max_seconds} must be above 0 and at most {limit_seconds:g}, "
            f"the most seconds the model hears."
        )
    return max_seconds


def _check_rate(rate: Any) -> int:
    if rate is None:
        raise ValueError("Samples need their rate: pass sampling_rate= in Hz, as in 16000.")
    is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not (is_number and 0 < rate <= MAX_RATE and rate == int(rate)):
        raise ValueError(
            f"sampling_rate={rate!r} must be a whole number of Hz, from 1 to {MAX_RATE}."
        )
    return int(rate)


def _read_array(audio: Samples) -> Float[np.ndarray, "samples channels"]:
    """Samples of an array or tensor as float32 `[samples, channels]`."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.dtype == torch.bfloat16 else audio).numpy()
    kind, shape = audio.dtype.kind, list(audio.shape)
    if kind != "f" and not (kind == "i" and audio.dtype.itemsize == 2):
        raise ValueError(
            f"Samples of dtype {audio.dtype} are not accepted: give floats within [-1, 1] or int16 "
            f"(divide other integers by their full scale)."
        )
    if audio.ndim not in (1, 2):
        raise ValueError(
            f"Samples of shape {shape} are not one clip: give [samples], [channels, samples] or "
            f"[samples, channels], and several clips as a list."
        )
    if audio.size == 0:
        raise ValueError(f"The clip is empty: its samples have shape {shape}.")
    if audio.ndim == 2:
        n_channels = min(shape)
        if shape[0] == shape[1] or n_channels > MAX_CHANNELS:
            raise ValueError(
                f"Samples of shape {shape} do not say which dimension is channels (the smaller "
                f"one, at most {MAX_CHANNELS}). Give one clip as [samples] and several as a list."
            )
        audio = audio.T if shape[0] == n_channels else audio
    with np.errstate(over="ignore"):
        samples = audio.reshape(len(audio), -1).astype(np.float32)
    return samples / 32768 if kind == "i" else samples


def _read_file(
    audio: Any, keep_seconds: Seconds | None, limit_seconds: Seconds
) -> tuple[Float[np.ndarray, "samples channels"], int, int]:
    """Samples, rate and full number of samples of a file; no more is kept than can be used."""

    def enough(rate: int) -> int:  # one more shows that the clip is too long
        return _n_samples(keep_seconds or limit_seconds, rate) + (keep_seconds is None)

    cut = keep_seconds is not None
    if isinstance(audio, (str, os.PathLike)):
        runs, seconds = read_path(Path(audio).expanduser(), enough, cut)
    else:
        runs, seconds = read_stream(_opened(audio), "The file", enough, cut)
    channels, rate = _one_run(runs)
    return channels, _check_rate(rate), round(seconds * rate)


def _one_run(
    runs: Sequence[tuple[Float[np.ndarray, "_ _"], int]],
) -> tuple[Float[np.ndarray, "samples channels"], int]:
    """Runs of several rates or numbers of channels as one, mono at the rate of the first."""
    if len(runs) == 1:
        return runs[0]
    rates = [_check_rate(rate) for _, rate in runs]
    waves = [_resample(_to_mono(run), rate, rates[0]) for (run, rate) in runs if len(run)]
    return np.concatenate(waves)[:, None], rates[0]


def _to_mono(channels: Float[np.ndarray, "samples channels"]) -> Float[np.ndarray, " samples"]:
    if len(channels) == 0:
        raise ValueError("The clip is empty: it holds no samples.")
    bad = np.flatnonzero(~np.isfinite(channels).all(axis=1))
    if len(bad):
        raise ValueError(
            f"The clip holds {len(bad)} NaN or infinite samples, the first at sample {bad[0]}. "
            f"Repair or remove them (numpy.nan_to_num)."
        )
    peak = float(np.abs(channels).max())
    if peak > MAX_PEAK:
        raise ValueError(
            f"Samples reach {peak:g}, and audio lies within [-1, 1]. Samples that were int16 must "
            f"be divided by 32768."
        )
    return channels.mean(axis=1)


def _resample(
    wave: Float[np.ndarray, " samples"], rate: int, target_rate: int
) -> Float[np.ndarray, " resampled"]:
    if rate == target_rate:
        return wave
    gcd = math.gcd(rate, target_rate)
    if (rate // gcd) * (target_rate // gcd) > _MAX_KERNEL:
        return _resample_odd(wave, rate, target_rate)
    return torchaudio.functional.resample(torch.from_numpy(wave), rate, target_rate).numpy()


def _resample_odd(
    wave: Float[np.ndarray, " samples"], rate: int, target_rate: int
) -> Float[np.ndarray, " resampled"]:
    """torchaudio.functional.resample's formula, for rates whose dense kernel would be huge.

    y[j] = sum_i x[i] c sinc(c t) cos^2(pi c t / 12) with t = i - j rate / target_rate and
    c = 0.99 min(rate, target_rate) / rate, over |c t| <= 6.
    """
    cutoff = 0.99 * min(rate, target_rate) / rate
    width = math.ceil(6 / cutoff)
    offsets = np.arange(-width, width + 2)
    padded = np.pad(wave, (width, width + 2))
    n_out = -(-len(wave) * target_rate // rate)
    out = np.empty(n_out, dtype=np.float32)
    step = max(1, 2**20 // len(offsets))
    for first in range(0, n_out, step):
        place = np.arange(first, min(first + step, n_out)) * rate
        whole, part = place // target_rate, place % target_rate / target_rate
        t = np.clip((offsets - part[:, None]) * cutoff, -6, 6)
        kernel = cutoff * np.sinc(t) * np.cos(np.pi * t / 12) ** 2
        out[first : first + step] = (padded[whole[:, None] + offsets + width] * kernel).sum(axis=1)
    return out
