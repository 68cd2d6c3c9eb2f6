"""Corrupted recordings keep their length and say what they are."""

import numpy as np
import pytest
import torch

import lens_audio as la
from lens_audio.analysis import corruptions


@pytest.fixture(scope="module")
def prompt():
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
    item = la.testbed.demo_item()
    return model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)


@pytest.mark.parametrize(
    "corrupt",
    [
        corruptions.silence,
        lambda prompt: corruptions.add_noise(prompt, 10.0),
        corruptions.shuffle_time,
    ],
    ids=["silence", "noise", "shuffle"],
)
def test_the_tokens_stay_as_they_were(prompt, corrupt):
    corrupted = corrupt(prompt)
    assert torch.equal(corrupted.tokens, prompt.tokens)
    assert not torch.equal(corrupted.mel, prompt.mel)


def test_noise_has_the_power_asked_for(prompt):
    noisy = corruptions.add_noise(prompt, 10.0).waveforms[0]
    noise = noisy - prompt.waveforms[0]
    ratio = 10 * np.log10((prompt.waveforms[0] ** 2).mean() / (noise**2).mean())
    assert ratio == pytest.approx(10.0, abs=0.1)


def test_shuffling_keeps_every_sample(prompt):
    shuffled = corruptions.shuffle_time(prompt).waveforms[0]
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(prompt.waveforms[0]))


def test_noise_on_silence_is_refused(prompt):
    with pytest.raises(ValueError, match="silent"):
        corruptions.add_noise(prompt.silenced(), 10.0)


def test_segments_longer_than_half_the_clip_are_refused(prompt):
    with pytest.raises(ValueError, match="two segments"):
        corruptions.shuffle_time(prompt, segment_seconds=2.0)
