"""The features against the reference's formula, written out here."""

import numpy as np
import pytest
import torch
import torchaudio

from lens_audio.checkpoints.families.qwen_audio_prompts import WholeHopFeatureExtractor


def reference_log_mel(wave):
    """`log_mel_spectrogram` of audio.py: the clip padded to 30 s, 80 Slaney bins, 8 decades deep."""
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, 480000 - len(wave)))
    stft = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)
    power = stft[:, :-1].abs() ** 2
    filters = torchaudio.functional.melscale_fbanks(
        201, 0.0, 8000.0, 80, 16000, norm="slaney", mel_scale="slaney"
    )
    log = (filters.T @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0


@pytest.mark.parametrize("seconds", [0.5, 7.013, 30])
def test_log_mel(seconds):
    wave = np.random.default_rng(0).normal(0, 0.1, int(seconds * 16000)).astype(np.float32)
    extractor = WholeHopFeatureExtractor(feature_size=80)
    found = extractor([wave], sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    torch.testing.assert_close(
        found["input_features"][0], reference_log_mel(wave), atol=1e-4, rtol=0
    )
    assert found["attention_mask"].sum().item() == len(wave) // 160
