"""Scenes: pure functions of their seeds, whose events and difficulty are as told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.testbed import make_scene_items, make_scene_pairs
from lens_audio.testbed.scenes import (
    MAX_SNR_DB,
    MIN_SNR_DB,
    SAMPLING_RATE,
    SCENE_CLASSES,
    SCENE_SECONDS,
    make_scene,
)

KINDS = ("what", "which", "yes_no", "first", "last", "lettered")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_events=st.integers(0, 2))
def test_events_lie_in_the_clip_in_order_and_differ(seed: int, n_events: int) -> None:
    scene = make_scene(np.random.default_rng(seed), n_events)
    assert len(scene.waveform) == SCENE_SECONDS * SAMPLING_RATE
    onsets = [event.onset for event in scene.events]
    assert onsets == sorted(onsets)
    assert len({event.category for event in scene.events}) == n_events
    for event in scene.events:
        assert 0 <= event.onset < event.offset <= SCENE_SECONDS
        assert MIN_SNR_DB <= event.snr_db <= MAX_SNR_DB


def test_an_event_is_as_loud_as_told() -> None:
    snr = 8.0
    scene = make_scene(np.random.default_rng(1), 1, (snr, snr))
    alone = make_scene(np.random.default_rng(1), 1, (-200.0, -200.0))  # the background by itself
    (event,) = scene.events
    outside = np.ones(len(scene.waveform), dtype=bool)
    outside[int(event.onset * SAMPLING_RATE) : round(event.offset * SAMPLING_RATE)] = False
    level = np.dot(scene.waveform[outside], alone.waveform[outside])
    level /= np.dot(alone.waveform[outside], alone.waveform[outside])
    noise = level * alone.waveform[~outside].astype(np.float64)
    sound = scene.waveform[~outside] - noise
    told = 10 * np.log10(np.mean(sound**2) / np.mean(noise**2))
    assert told == pytest.approx(snr, abs=0.2)


def test_some_scenes_of_two_events_overlap_and_say_by_how_much() -> None:
    items = make_scene_items(60, 3, kind="which")
    overlaps = [item.overlap for item in items]
    assert 0 < sum(o > 0 for o in overlaps) < 30
    for item in items:
        one, other = item.events
        together = min(one.offset, other.offset) - other.onset
        assert item.overlap == pytest.approx(max(0, together))


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_changes_the_caption_alone(kind: str) -> None:
    plain, true, false = (make_scene_items(8, 5, c, kind) for c in ("none", "true", "false"))  # type: ignore[arg-type]
    for none, agreeing, conflicting in zip(plain, true, false, strict=True):
        assert np.array_equal(none.audio[0], conflicting.audio[0])
        assert agreeing.question.endswith(none.question)
        assert conflicting.question.endswith(none.question)
        assert none.answer == agreeing.answer == conflicting.answer == agreeing.captioned
        assert conflicting.captioned in conflicting.choices
        assert conflicting.captioned != conflicting.answer
        assert (none.condition, agreeing.condition, conflicting.condition) == (
            "captionless", "truthful", "conflict",
        )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_what_sounds(kind: str) -> None:
    for item in make_scene_items(12, 6, kind=kind):  # type: ignore[arg-type]
        heard = [event.category for event in item.events]
        if kind == "yes_no":
            asked = next(c for c in SCENE_CLASSES if c in item.question)
            assert item.answer == ("yes" if asked in heard else "no")
        elif kind == "lettered":
            assert f"{item.answer} {heard[0]}" in item.question
        else:
            place = {"first": 0, "last": -1, "what": 0}.get(kind)
            assert item.answer in heard if place is None else item.answer == heard[place]
        if kind == "which":
            assert sum(category in item.choices for category in heard) == 1


def test_pairs_differ_in_the_sound_alone() -> None:
    for clean, corrupted in make_scene_pairs(10, 4, "false"):
        assert clean.question == corrupted.question
        assert clean.choices == corrupted.choices
        assert corrupted.answer in corrupted.choices
        assert len({clean.answer, corrupted.answer, clean.captioned}) == 3
        assert corrupted.answer == corrupted.events[0].category
        assert clean.id != corrupted.id


def test_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="n and seed"):
        make_scene_items(-1, 0)
    with pytest.raises(ValueError, match="lowest, highest"):
        make_scene_items(1, 0, snr_db=(3.0, -3.0))
