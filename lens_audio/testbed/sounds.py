"""Synthesised sounds: sixteen classes of short event, each at a random onset in a background.

Everything is 16 kHz float32 and drawn from a `numpy.random.Generator`, so a clip is a pure
function of its generator's state. Filters and mixing are torchaudio's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio.functional as F
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Rng = np.random.Generator

SAMPLING_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 2.5, 4.0
MIN_EVENT_SECONDS, MAX_EVENT_SECONDS = 0.35, 1.0
# Event power over background power, measured over the event. At the low end every class can
# still be told apart; at the high end the background is barely audible.
MIN_SNR_DB, MAX_SNR_DB = 6.0, 26.0
BACKGROUNDS = ("white", "pink", "brown", "band", "hum")


@dataclass(frozen=True)
class Clip:
    """A recording and where its event lies. `category` is None for background only or silence."""

    waveform: Samples  # [samples]
    onset: float  # seconds; 0 when there is no event
    offset: float  # seconds; 0 when there is no event
    category: str | None
    snr_db: float  # nan when there is no event
    background: str


@dataclass(frozen=True)
class Event:
    """One sound of a scene."""

    category: str
    onset: float  # seconds
    offset: float  # seconds
    snr_db: float  # its power over the background's, while it sounds


# --- building blocks -----------------------------------------------------------------------


def _time(seconds: float) -> NDArray[np.float64]:
    """Sample times in seconds, [samples]."""
    return np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE


def _sweep(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phase in radians of a tone whose frequency (Hz) is given for each sample."""
    return 2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE


def _harmonics(phase: NDArray[np.float64], n: int, slope: float = 1.0) -> NDArray[np.float64]:
    """Sum of n harmonics whose amplitudes fall as 1 / k ** slope (slope 1: a sawtooth)."""
    k = np.arange(1, n + 1)[:, None]
    return np.asarray((np.sin(k * phase[None]) / k**slope).sum(0))


def _lowpass(x: NDArray[np.float64], hz: float) -> NDArray[np.float64]:
    return F.lowpass_biquad(torch.from_numpy(x).float(), SAMPLING_RATE, hz).double().numpy()


def _highpass(x: NDArray[np.float64], hz: float) -> NDArray[np.float64]:
    return F.highpass_biquad(torch.from_numpy(x).float(), SAMPLING_RATE, hz).double().numpy()


def _bandpass(x: NDArray[np.float64], hz: float, q: float) -> NDArray[np.float64]:
    y = F.bandpass_biquad(torch.from_numpy(x).float(), SAMPLING_RATE, hz, q)
    return y.double().numpy()


def _place(
    seconds: float, starts: NDArray[np.float64], grain: Callable[[int], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Add grain(i) at each start (seconds) of an otherwise silent signal, cut at its end."""
    out = np.zeros(round(seconds * SAMPLING_RATE))
    for i, start in enumerate(starts):
        begin = int(start * SAMPLING_RATE)
        piece = grain(i)[: len(out) - begin]
        out[begin : begin + len(piece)] += piece
    return out


def _beats(rng: Rng, seconds: float, low: float, high: float) -> NDArray[np.float64]:
    """Regular start times at a tempo drawn between low and high per second."""
    return np.arange(0, seconds - 0.03, 1 / rng.uniform(low, high))


# --- the classes ---------------------------------------------------------------------------


def _alarm(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Two square tones alternating."""
    t = _time(seconds)
    low = rng.uniform(700, 1000)
    high = low * rng.uniform(1.35, 1.6)
    hz = np.where((t * rng.uniform(6, 10)) % 1 < 0.5, low, high)
    return _lowpass(np.sign(np.sin(_sweep(hz))), 5000.0)


def _bark(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Short hoarse voiced bursts with a falling pitch."""
    f0 = rng.uniform(280, 480)

    def burst(_: int) -> NDArray[np.float64]:
        t = _time(rng.uniform(0.11, 0.16))
        voice = _harmonics(_sweep(f0 * (1.3 - 3 * t)), 12, 0.6) + 0.8 * rng.standard_normal(len(t))
        envelope = np.sin(np.pi * np.linspace(0, 1, len(t))) ** 0.7
        return _bandpass(voice * envelope, rng.uniform(800, 1200), 1.0)

    return _place(seconds, _beats(rng, seconds, 3.0, 4.5), burst)


def _bell(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A struck bell: inharmonic partials that ring on."""
    t = _time(seconds)
    f0 = rng.uniform(600, 1100)
    ratios = np.array([0.5, 1.0, 1.19, 1.56, 2.0, 2.66, 3.01])
    decay = rng.uniform(3, 5) * np.sqrt(ratios)
    gain = np.array([0.5, 1.0, 0.7, 0.5, 0.7, 0.4, 0.3])[:, None]
    rings = gain * np.exp(-decay[:, None] * t) * np.sin(2 * np.pi * f0 * ratios[:, None] * t)
    return np.asarray(rings.sum(0))


def _bird(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Chirps: quick upward sweeps between 2.5 and 5.5 kHz."""
    low = rng.uniform(2400, 3200)
    high = low * rng.uniform(1.5, 1.8)

    def chirp(_: int) -> NDArray[np.float64]:
        ramp = np.linspace(0, 1, int(0.07 * SAMPLING_RATE))
        return np.sin(np.pi * ramp) * np.sin(_sweep(low + (high - low) * ramp))

    return _place(seconds, _beats(rng, seconds, 7.0, 11.0), chirp)


def _buzz(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A steady sawtooth with all its harmonics."""
    hz = np.full(round(seconds * SAMPLING_RATE), rng.uniform(90, 160))
    return _highpass(_harmonics(_sweep(hz), 40, 0.5), 400.0)


def _click(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A clock: regular, very short, bright clicks."""
    pitch = rng.uniform(2500, 4000)

    def tick(_: int) -> NDArray[np.float64]:
        t = _time(0.02)
        return np.exp(-400 * t) * (np.sin(2 * np.pi * pitch * t) + rng.standard_normal(len(t)))

    return _place(seconds, _beats(rng, seconds, 7.0, 12.0), tick)


def _cricket(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A high tone pulsing fast."""
    t = _time(seconds)
    pulse = np.clip(np.sin(2 * np.pi * rng.uniform(24, 36) * t), 0, None)
    return pulse * np.sin(2 * np.pi * rng.uniform(5800, 7000) * t)


def _engine(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Low firing pulses with a noisy body."""
    t = _time(seconds)
    phase = _sweep(rng.uniform(28, 45) * (1 + 0.25 * t / seconds))
    body = _harmonics(phase, 14, 0.3) + (1 + np.sin(phase)) * rng.standard_normal(len(t))
    return _lowpass(_lowpass(body, 350.0), 500.0)


def _glass(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Shattering: a bright burst, then many small high rings."""

    def shard(i: int) -> NDArray[np.float64]:
        t = _time(0.12)
        ring = np.sin(2 * np.pi * rng.uniform(2500, 7500) * t) * np.exp(-rng.uniform(25, 50) * t)
        return ring * np.exp(-0.05 * i)

    starts = np.sort(rng.exponential(0.13, 40))
    t = _time(seconds)
    burst = _highpass(rng.standard_normal(len(t)) * np.exp(-40 * t), 2000.0)
    return _place(seconds, starts[starts < seconds - 0.01], shard) + 1.5 * burst


def _guitar(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """One plucked string: harmonics, the higher the shorter."""
    t = _time(seconds)
    k = np.arange(1, 16)[:, None]
    f0 = rng.uniform(150, 330)
    string = np.sin(2 * np.pi * f0 * k * t) * np.exp(-(1.5 + 0.9 * k) * t) / k**0.8
    return np.asarray(string.sum(0))


def _horn(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A car horn: two steady harmonic tones, a third apart."""
    n = round(seconds * SAMPLING_RATE)
    f0 = rng.uniform(380, 480)
    tones = [_harmonics(_sweep(np.full(n, f0 * r)), 7, 0.5) for r in (1.0, 1.26)]
    return _lowpass(tones[0] + tones[1], 3500.0)


def _knock(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Dull wooden thumps."""
    pitch = rng.uniform(140, 260)

    def thump(_: int) -> NDArray[np.float64]:
        t = _time(0.1)
        return np.exp(-45 * t) * (
            np.sin(2 * np.pi * pitch * t) + 0.5 * np.sin(4.2 * np.pi * pitch * t)
        )

    return _place(seconds, _beats(rng, seconds, 4.5, 7.0), thump)


def _laser(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Falling sweeps over four octaves."""
    top = rng.uniform(3500, 5000)

    def zap(_: int) -> NDArray[np.float64]:
        t = _time(0.16)
        return np.sin(_sweep(top * np.exp(-18 * t))) * np.clip(1 - t / 0.16, 0, None) ** 0.5

    return _place(seconds, _beats(rng, seconds, 4.5, 6.0), zap)


def _rain(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """Dense random drops over a bright hiss."""
    drops = rng.standard_normal(round(seconds * SAMPLING_RATE)) * 0.3
    hits = rng.integers(0, len(drops), int(rng.uniform(250, 450) * seconds))
    drops[hits] += rng.choice([-1.0, 1.0], len(hits)) * rng.uniform(4, 12, len(hits))
    return _bandpass(drops, rng.uniform(3500, 5000), 0.9)


def _siren(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A tone that wails slowly up and down."""
    t = _time(seconds)
    wail = np.sin(2 * np.pi * rng.uniform(1.8, 3.0) * t + rng.uniform(0, 2 * np.pi))
    return _harmonics(_sweep(rng.uniform(800, 1000) * (1 + 0.4 * wail)), 3, 1.2)


def _whistle(rng: Rng, seconds: float) -> NDArray[np.float64]:
    """A steady pure tone with a light vibrato."""
    t = _time(seconds)
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
    return np.sin(_sweep(rng.uniform(1500, 2300) * vibrato))


SYNTHESISERS: dict[str, Callable[[Rng, float], NDArray[np.float64]]] = {
    "alarm": _alarm,
    "bark": _bark,
    "bell": _bell,
    "bird": _bird,
    "buzz": _buzz,
    "click": _click,
    "cricket": _cricket,
    "engine": _engine,
    "glass": _glass,
    "guitar": _guitar,
    "horn": _horn,
    "knock": _knock,
    "laser": _laser,
    "rain": _rain,
    "siren": _siren,
    "whistle": _whistle,
}
CLASSES: tuple[str, ...] = tuple(SYNTHESISERS)


# --- events, backgrounds, clips ------------------------------------------------------------


def make_event(category: str, rng: Rng, seconds: float) -> Samples:
    """One event of the class, [samples], with faded ends and unit RMS."""
    if category not in SYNTHESISERS:
        raise ValueError(f"unknown sound class {category!r}; choose one of {', '.join(CLASSES)}")
    sound = SYNTHESISERS[category](rng, seconds)
    fade = np.minimum(1, np.arange(len(sound)) / (0.005 * SAMPLING_RATE))
    sound = sound * np.minimum(fade, fade[::-1])
    return np.asarray(sound / np.sqrt(np.mean(sound**2)), dtype=np.float32)


def make_background(kind: str, rng: Rng, seconds: float) -> Samples:
    """A sustained background, [samples], with unit RMS."""
    n = round(seconds * SAMPLING_RATE)
    hz = np.fft.rfftfreq(n, 1 / SAMPLING_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    if kind in ("white", "pink", "brown"):
        slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]
        spectrum *= 1 / np.maximum(hz, 40) ** slope
    elif kind == "band":
        spectrum *= np.exp(-0.5 * (np.log2(np.maximum(hz, 1) / rng.uniform(300, 2500)) / 0.7) ** 2)
    elif kind == "hum":
        mains = _harmonics(_sweep(np.full(n, rng.choice([50.0, 60.0]))), 5, 0.7)
        spectrum = 0.02 * spectrum + np.fft.rfft(mains)
    else:
        raise ValueError(f"unknown background {kind!r}; choose one of {', '.join(BACKGROUNDS)}")
    noise = np.fft.irfft(spectrum, n)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), dtype=np.float32)


def make_clip(category: str | None, rng: Rng, seconds: float | None = None) -> Clip:
    """A clip of `seconds` (drawn if not given) with one event of the class at a random onset.

    `category=None` gives the background alone.
    """
    # Whole hundredths: a clip is then a whole number of mel frames (and a quick FFT).
    drawn = round(float(rng.uniform(MIN_SECONDS, MAX_SECONDS)), 2)
    seconds = drawn if seconds is None else seconds
    kind = str(rng.choice(BACKGROUNDS))
    background = make_background(kind, rng, seconds)
    peak = float(rng.uniform(0.2, 0.9))
    if category is None:
        # Quieter than under an event: nothing rises above it that would call for more level.
        waveform = 0.2 * peak * background / np.abs(background).max()
        return Clip(waveform.astype(np.float32), 0.0, 0.0, None, float("nan"), kind)
    length = round(float(rng.uniform(MIN_EVENT_SECONDS, MAX_EVENT_SECONDS)), 2)
    event = make_event(category, rng, length)
    begin = int(rng.uniform(0.05, seconds - length - 0.05) * SAMPLING_RATE)
    snr_db = float(rng.uniform(MIN_SNR_DB, MAX_SNR_DB))
    span = slice(begin, begin + len(event))
    mixed = F.add_noise(
        torch.from_numpy(event), torch.from_numpy(background[span]), torch.tensor(snr_db)
    )
    # add_noise scales the noise it is given; the rest of the background needs that same gain.
    # Both have unit RMS over the whole, so the gain follows from the noise power in the span.
    waveform = background * np.sqrt(
        np.mean(event**2) / np.mean(background[span] ** 2) / 10 ** (snr_db / 10)
    )
    waveform[span] = mixed.numpy()
    waveform *= peak / np.abs(waveform).max()
    onset, offset = begin / SAMPLING_RATE, (begin + len(event)) / SAMPLING_RATE
    return Clip(waveform.astype(np.float32), onset, offset, category, snr_db, kind)


def silence(seconds: float) -> Clip:
    """Exact zeros of that length."""
    waveform = np.zeros(round(seconds * SAMPLING_RATE), dtype=np.float32)
    return Clip(waveform, 0.0, 0.0, None, float("nan"), "silence")
