"""Log-mel spectrograms that pass gradients to the waveform: what the processor makes, in torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperFeatureExtractor

from lens_audio.inputs.prompt import AudioPrompt

RANGE = 8.0  # powers of ten that a spectrogram keeps below its own maximum
LEAST_POWER = 1e-10


def log_mel(
    waveforms: Sequence[Float[Tensor, " _"]], extractor: Any, n_frames: int | None = None
) -> Float[Tensor, "spectrogram mel frame"]:
    """The features that a `WhisperFeatureExtractor` makes of waveforms, each one spectrogram.

    With P the mel filters times the power spectrogram (Hann window) and L = log10 max(P, 1e-10), it
    is (max(L, max L - 8) + 4) / 4, the inner maximum taken over the spectrogram. Source: Radford and
    others, "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv 2212.04356, section
    2.2, and its code. `torch.autograd` differentiates it almost everywhere.

    Args:
        waveforms: at the extractor's rate, float32 or float64, which the features then are too.
        n_frames: to which every waveform is padded with silence, or cut; as the extractor's own.

    Raises:
        ValueError: for no waveforms, or another kind of feature extractor.
    """
    if not isinstance(extractor, WhisperFeatureExtractor) or extractor.dither:
        raise ValueError(
            "features that can be differentiated are those of a WhisperFeatureExtractor without "
            f"dither, not of this {type(extractor).__name__}"
        )
    if not waveforms:
        raise ValueError("no waveforms were given")
    frames = extractor.nb_max_frames if n_frames is None else n_frames
    n_samples = frames * extractor.hop_length
    padded = torch.stack([F.pad(w[:n_samples], (0, max(0, n_samples - len(w)))) for w in waveforms])
    spectrum = torch.stft(
        padded,
        extractor.n_fft,
        extractor.hop_length,
        window=torch.hann_window(extractor.n_fft, dtype=padded.dtype, device=padded.device),
        return_complex=True,
    )[..., :-1]
    power = spectrum.real.square() + spectrum.imag.square()
    filters = torch.from_numpy(extractor.mel_filters).to(power)
    log = (filters.T @ power).clamp(min=LEAST_POWER).log10()
    return (torch.maximum(log, log.amax((1, 2), keepdim=True) - RANGE) + 4.0) / 4.0


def with_waveforms(prompt: AudioPrompt, waveforms: Sequence[Float[Tensor, " _"]]) -> AudioPrompt:
    """The same prompt over other waveforms of the same lengths, one for each clip of the batch.

    Unlike `prompt.with_audio` it passes gradients: from `model(result)` to the waveforms.

    Raises:
        ValueError: for a prompt without clips or made from tensors, for another number or other
            lengths of waveforms, and as `log_mel`.
    """
    own = original_waveforms(prompt)
    if [len(w) for w in waveforms] != [len(w) for w in own]:
        raise ValueError(
            f"this prompt's clips are of {[len(w) for w in own]} samples, and the waveforms of "
            f"{[len(w) for w in waveforms]}: keep the lengths, or make a prompt with with_audio"
        )
    assert prompt.mel is not None
    parts = torch.cat(list(waveforms)).split(prompt.samples_of_spectrograms())
    mel = log_mel(parts, prompt.processor.feature_extractor, prompt.mel.shape[2])
    kept = [w.detach().cpu().float().numpy() for w in waveforms]
    return replace(prompt, mel=mel.to(prompt.mel), waveforms=kept)


def original_waveforms(prompt: AudioPrompt) -> list[Float[Tensor, " _"]]:
    """The waveform of each clip of the batch, as tensors of their own where the prompt is.

    Raises:
        ValueError: for a prompt without clips, or made from tensors.
    """
    if prompt.mel is None:
        raise ValueError("this prompt has no audio: ask about a recording")
    if prompt.waveforms is None or prompt.processor is None:
        raise ValueError(
            "this prompt was made from tensors and has no waveforms: make it with "
            "model.prompt(question, audio)"
        )
    return [torch.tensor(w, device=prompt.tokens.device) for w in prompt.waveforms]
