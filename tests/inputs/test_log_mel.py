"""The differentiable log-mel spectrogram is the processor's, and gradients pass to the waveform."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_processors import ask
from real_tokenizer import shared_data
from transformers import ClapFeatureExtractor, WhisperFeatureExtractor

import lens_audio as la
from lens_audio.inputs import load_audio
from lens_audio.inputs.log_mel import log_mel, original_waveforms, with_waveforms

RECORDINGS = [
    "audio/1272-128104-0000-middle_classes.wav",
    "audio/es.mp3",
    "audio/glass-breaking-151256.mp3",
    "mmau/test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav",
]
PUBLISHED = WhisperFeatureExtractor(feature_size=128)  # Qwen2-Audio's


@pytest.fixture(scope="module")
def model():
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")


@pytest.fixture(scope="module")
def prompt(model):
    items = la.testbed.make_items(2, seed=4)
    clips = [(item.waveform, item.sampling_rate) for item in items]
    return model.prompt([item.question for item in items], audio=clips)


@pytest.mark.parametrize("path", RECORDINGS)
def test_the_features_are_the_processors(path):
    wave = load_audio(shared_data(path))
    expected = PUBLISHED(wave, sampling_rate=16000, return_tensors="pt")["input_features"]
    found = log_mel([torch.from_numpy(wave)], PUBLISHED)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_recording_that_is_too_long_is_cut_as_the_processor_cuts_it():
    short = WhisperFeatureExtractor(chunk_length=2)
    wave = load_audio(shared_data(RECORDINGS[1]))
    assert len(wave) > short.n_samples
    expected = short(wave, sampling_rate=16000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(
        log_mel([torch.from_numpy(wave)], short), expected, atol=1e-4, rtol=0
    )


def test_the_same_waveforms_give_the_same_prompt(prompt):
    same = with_waveforms(prompt, original_waveforms(prompt))
    torch.testing.assert_close(same.mel, prompt.mel, atol=1e-4, rtol=0)
    assert torch.equal(same.tokens, prompt.tokens)
    for found, expected in zip(same.waveforms, prompt.waveforms, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("Audio Flamingo 3", 31.0), ("Qwen2.5-Omni", 3.3)],
    ids=["windows", "chunks"],
)
def test_long_clips_are_taken_apart_as_the_processor_does(name, seconds):
    prompt = ask(name, seconds)
    found = with_waveforms(prompt, original_waveforms(prompt))
    torch.testing.assert_close(found.mel, prompt.mel, atol=1e-4, rtol=0)


def test_the_gradient_is_that_of_finite_differences():
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    rng = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(900, generator=rng, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda wave: log_mel([wave], extractor, n_frames=6), wave.requires_grad_(), fast_mode=True
    )


def test_gradients_pass_through_the_model_to_the_waveform(prompt):
    model = la.HookedAudioTransformer.from_pretrained(
        la.testbed.checkpoint_dir(), device="cpu", dtype=torch.float64
    )
    prompt = replace(prompt, mel=prompt.mel.double())
    waves = [w.double() for w in original_waveforms(prompt)]
    rng = torch.Generator().manual_seed(1)
    along = [torch.randn(len(w), generator=rng, dtype=torch.float64) for w in waves]

    def value(step):
        moved = [w + step * d for w, d in zip(waves, along, strict=True)]
        logits = model(with_waveforms(prompt, moved), logits_to_keep=1)
        return logits[:, -1].log_softmax(-1)[:, 5].sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(value(step), step)
    with torch.no_grad():
        expected = (value(torch.tensor(1e-7)) - value(torch.tensor(-1e-7))) / 2e-7
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_each_waveform_has_a_gradient_from_its_own_row_alone(model, prompt):
    waves = [w.requires_grad_() for w in original_waveforms(prompt)]
    logits = model(with_waveforms(prompt, waves), logits_to_keep=1)[:, -1, 5]
    first, second = torch.autograd.grad(logits[0], waves)
    assert first.isfinite().all()
    assert float(first.abs().max()) > 0
    assert float(second.abs().max()) == 0


def test_another_length_is_refused(prompt):
    waves = original_waveforms(prompt)
    with pytest.raises(ValueError, match="keep the lengths"):
        with_waveforms(prompt, [waves[0][1:], waves[1]])


def test_a_prompt_made_from_tensors_is_refused(model, prompt):
    bare = la.AudioPrompt.from_tensors(
        prompt.tokens, prompt.mel, prompt.mel_lengths, prompt.attention_mask, cfg=model.cfg
    )
    with pytest.raises(ValueError, match="made from tensors"):
        original_waveforms(bare)


def test_a_prompt_without_audio_is_refused(model):
    with pytest.raises(ValueError, match="no audio"):
        original_waveforms(model.prompt("What do you hear?"))


def test_another_feature_extractor_is_refused():
    with pytest.raises(ValueError, match="ClapFeatureExtractor"):
        log_mel([torch.zeros(100)], ClapFeatureExtractor())
    with pytest.raises(ValueError, match="dither"):
        log_mel([torch.zeros(100)], WhisperFeatureExtractor(dither=0.1))
