"""Synthesised sounds: reproducible, bounded, event where it is said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.testbed.sounds import (
    BACKGROUNDS,
    CLASSES,
    MAX_SECONDS,
    MIN_SECONDS,
    SAMPLING_RATE,
    make_background,
    make_clip,
    make_event,
    silence,
)


@settings(max_examples=40, deadline=None)
@given(category=st.sampled_from(CLASSES), seed=st.integers(0, 2**32 - 1))
def test_clip_is_bounded_and_holds_its_event(category: str, seed: int) -> None:
    clip = make_clip(category, np.random.default_rng(seed))
    seconds = len(clip.waveform) / SAMPLING_RATE
    assert clip.waveform.dtype == np.float32
    assert np.abs(clip.waveform).max() <= 0.91
    assert MIN_SECONDS <= seconds <= MAX_SECONDS
    assert 0 < clip.onset < clip.offset < seconds


@pytest.mark.parametrize("category", CLASSES)
def test_event_rises_above_its_background(category: str) -> None:
    clip = make_clip(category, np.random.default_rng(3))
    begin, end = (round(t * SAMPLING_RATE) for t in (clip.onset, clip.offset))
    inside = np.mean(clip.waveform[begin:end] ** 2)
    outside = np.mean(np.delete(clip.waveform, slice(begin, end)) ** 2)
    measured = 10 * np.log10(inside / outside)
    # Event plus background inside, and backgrounds are not exactly stationary.
    assert measured > clip.snr_db - 3


def test_same_generator_state_gives_same_clip() -> None:
    a, b, c = (make_clip("bell", np.random.default_rng(seed)).waveform for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a[:1000], c[:1000])


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_have_unit_level(kind: str) -> None:
    noise = make_background(kind, np.random.default_rng(0), 1.0)
    assert noise.shape == (SAMPLING_RATE,)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, abs=1e-3)


def test_silence_is_exact_zeros() -> None:
    clip = silence(1.5)
    assert clip.waveform.shape == (24_000,)
    assert not clip.waveform.any()


def test_unknown_names_are_refused_with_the_possible_ones() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'piano'.*whistle"):
        make_event("piano", rng, 0.5)
    with pytest.raises(ValueError, match=r"'violet'.*pink"):
        make_background("violet", rng, 0.5)
