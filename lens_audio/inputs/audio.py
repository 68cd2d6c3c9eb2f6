"""Audio in: a file, an array or a tensor becomes one mono float32 waveform at the model's rate."""

from __future__ import annotations

import math
import numbers
import os
import re
from io import SEEK_END, BufferedIOBase
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import soundfile
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

from lens_audio.inputs.timing import MIN_MEL_FRAMES, Seconds

Samples = np.ndarray | Tensor
Rate = SupportsIndex | float  # a whole number of Hz
Clip = str | os.PathLike | BufferedIOBase | Samples | tuple[Samples, Rate]
"""What one clip may be: a path, an open file, samples, or samples with their sampling rate."""

MAX_CHANNELS = 8  # of an array: more than 7.1 surround is a batch of clips, not one clip
MAX_RATE = 1_000_000  # Hz
MAX_PEAK = 100.0  # float samples beyond this are integers that nobody scaled
_UNKNOWN_SIZE = 0x7FFF0000  # a streaming writer leaves a size this large in a wav header
_MAX_KERNEL = 2**20  # torchaudio's resampling kernel is dense: rate * target / gcd**2 numbers


def is_clip(audio: object) -> bool:
    """Whether `audio` is of a kind that `load_audio` takes (not whether it can be read)."""
    if isinstance(audio, tuple):
        return len(audio) == 2 and _is_samples(audio[0]) and isinstance(audio[1], numbers.Number)
    return isinstance(audio, (str, os.PathLike, BufferedIOBase)) or _is_samples(audio)


def load_audio(
    audio: Any,
    sampling_rate: Rate | None = None,
    *,
    target_rate: int = 16000,
    limit_seconds: Seconds = 30.0,
    max_seconds: Seconds | None = None,
    hop_length: int = 160,
) -> Float[np.ndarray, " samples"]:
    """One clip as mono float32 samples at `target_rate` Hz, resampled with torchaudio if need be.

    `audio` is a path or an open file (wav, flac, mp3, ogg; the file's own rate counts), or a numpy
    array or torch tensor at `sampling_rate` Hz, or a pair (array, rate). Arrays are `[samples]`,
    `[channels, samples]` or `[samples, channels]` (the smaller dimension is channels, at most 8),
    of a floating dtype within [-1, 1] or int16, which is scaled to [-1, 1]. Channels are averaged.
    `max_seconds` keeps the first seconds of a longer clip.

    Raises FileNotFoundError, IsADirectoryError, TypeError (not a clip at all) and ValueError:
    damaged, truncated or non-audio files, samples that are missing, NaN, infinite or out of range,
    a wrong or missing rate, clips longer than `limit_seconds` (nothing is cut unless asked) or too
    short for one audio token (fewer than 2 hops + 1 samples).
    """
    keep = _seconds_to_keep(max_seconds, limit_seconds)
    if isinstance(audio, tuple) and is_clip(audio):
        audio, sampling_rate = audio
    if isinstance(audio, (str, os.PathLike)):
        channels, rate, n_samples = _read_file(Path(audio).expanduser(), keep, limit_seconds)
    elif isinstance(audio, BufferedIOBase):
        channels, rate, n_samples = _read_stream(audio, "The file", keep, limit_seconds)
    elif isinstance(audio, (np.ndarray, Tensor)):
        rate = _check_rate(sampling_rate)
        channels = _read_array(audio)
        n_samples = len(channels)
    else:
        raise TypeError(
            f"A clip must be a path, an open file, a numpy array, a torch tensor or a pair "
            f"(array, rate), not {type(audio).__name__}."
        )
    if keep is not None:
        channels = channels[: _n_samples(keep, rate)]
    elif n_samples > limit_seconds * rate:
        raise ValueError(
            f"The clip lasts {n_samples / rate:.6g} s and the model hears at most "
            f"{limit_seconds:g} s. Pass max_seconds={limit_seconds:g} to keep its beginning, or "
            f"cut out the part you want: samples[int(start * rate) : int(end * rate)]."
        )
    wave = _resample(_to_mono(channels), rate, target_rate)
    shortest = (MIN_MEL_FRAMES - 1) * hop_length + 1
    if len(wave) < shortest:
        raise ValueError(
            f"The clip is too short to make one audio token: {len(wave)} samples at {target_rate} "
            f"Hz, and at least {shortest} ({shortest / target_rate:.3g} s) are needed. "
            f"Give a longer clip or pad it with zeros."
        )
    return wave


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
    path: Path, keep_seconds: Seconds | None, limit_seconds: Seconds
) -> tuple[Float[np.ndarray, "samples channels"], int, int]:
    """Samples, rate and full number of samples of a file; no more is read than can be used."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give the path of one audio file.")
    if not path.exists():
        raise FileNotFoundError(
            f"There is no audio file at {path} (a file on the web must be downloaded first)."
        )
    with open(path, "rb") as stream:
        return _read_stream(stream, str(path), keep_seconds, limit_seconds)


def _read_stream(
    stream: BufferedIOBase, name: str, keep_seconds: Seconds | None, limit_seconds: Seconds
) -> tuple[Float[np.ndarray, "samples channels"], int, int]:
    size = stream.seek(0, SEEK_END)
    stream.seek(0)
    if size == 0:
        raise ValueError(f"{name} is an empty file.")
    try:
        with soundfile.SoundFile(stream) as sound:
            _check_wav_size(name, sound)
            rate = _check_rate(sound.samplerate)
            wanted = _n_samples(keep_seconds or limit_seconds, rate)
            wanted += keep_seconds is None  # one more shows that the clip is too long
            samples = sound.read(wanted, dtype="float32", always_2d=True)
            _check_all_decoded(name, size, sound, min(wanted, sound.frames), len(samples), stream)
            return samples, rate, max(sound.frames, len(samples))
    except (soundfile.LibsndfileError, TypeError) as error:
        raise ValueError(
            f"{name} cannot be read as audio ({error}): it is damaged, truncated or not audio. "
            f"Give a wav, flac, mp3 or ogg file."
        ) from error


def _check_wav_size(name: str, sound: soundfile.SoundFile) -> None:
    """Refuses a wav or aiff file whose data is shorter than its header says."""
    size = re.search(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info, re.M)
    if size and int(size[2]) < int(size[1]) < _UNKNOWN_SIZE:
        raise ValueError(
            f"{name} is truncated: its header says {size[1]} bytes of samples and it holds "
            f"{size[2]}. Get the whole file, or re-encode it to keep what is there."
        )


def _check_all_decoded(
    name: str,
    size: int,
    sound: soundfile.SoundFile,
    expected: int,
    decoded: int,
    stream: BufferedIOBase,
) -> None:
    """Refuses a file that held fewer samples than it said, or an mp3 that holds far more.

    An mp3 without a length header lets its decoder only guess the length: a guess that stops the
    decoder short leaves bytes unread. (A cut of a constant-rate mp3 without one leaves no trace.)
    """
    is_mp3 = sound.format == "MP3"
    if decoded < expected - (2 * 1152 if is_mp3 else 0):
        raise ValueError(
            f"{name} is truncated: it says {expected / sound.samplerate:.3f} s and only "
            f"{decoded / sound.samplerate:.3f} s can be decoded. Get the whole file, or "
            f"re-encode it."
        )
    guessed = is_mp3 and re.search(r"bitrate mode\s*: constant", sound.extra_info)
    if guessed and expected == sound.frames and stream.tell() < 0.9 * size:
        raise ValueError(
            f"{name} does not say how long it is and only {stream.tell()} of its {size} bytes were "
            f"decoded. Re-encode it (to wav or flac)."
        )


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
