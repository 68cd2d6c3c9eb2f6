"""HookedAudioEncoder: an audio encoder with every hook point, in a model or alone."""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.checkpoints.encoder import (
    encoder_cfg,
    encoder_in_hf,
    fill_encoder,
    open_encoder,
    share_encoder,
)
from lens_audio.checkpoints.pretrained import resolve_device
from lens_audio.config import AudioEncoderConfig
from lens_audio.inputs.audio import Rate, load_audio
from lens_audio.inputs.loading import clip_rows
from lens_audio.model.encoders import AudioEncoder, AuTEncoder


class HookedAudioEncoder(AudioEncoder):
    """An audio encoder: a model's (`model.audio_encoder`), or loaded without its decoder.

    `encoder.run_with_cache(*encoder.features("a.wav"))` gives its output and every activation, under
    the names of a model's without `audio_encoder.`.
    """

    feature_extractor: Any = None  # of a checkpoint; None in a model, whose processor has it

    @staticmethod
    def of(cfg: AudioEncoderConfig) -> "HookedAudioEncoder":
        """The encoder that the config is of."""
        return HookedAudioEncoder(cfg) if cfg.conv_channels is None else HookedAuTEncoder(cfg)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        revision: str | None = None,
        verbose: bool = True,
    ) -> "HookedAudioEncoder":
        """The encoder of a Whisper (`openai/whisper-small`), or of a model of the `FAMILIES`.

        Only the encoder's tensors are read. Whisper's has no pool: a token is 20 ms. What its decoder
        would make of it is not here.

        Args: as of `HookedAudioTransformer.from_pretrained`.

        Raises:
            FileNotFoundError, ValueError: as there.
        """
        target = resolve_device(device)
        folder, config, family, whole = open_encoder(path_or_hub_id, revision)
        cfg = encoder_cfg(whole)
        with torch.device("meta"):
            encoder = cls.of(cfg)
        fill_encoder(encoder, folder, config, family, target, dtype, verbose)
        weight = encoder.conv1.weight
        cfg.device, cfg.dtype = str(target), weight.dtype
        processor, _ = family.read_processor(folder, whole)
        encoder.feature_extractor = getattr(processor, "feature_extractor", processor)
        return encoder.eval()

    @classmethod
    def from_hf(cls, hf_model: nn.Module, feature_extractor: Any = None) -> "HookedAudioEncoder":
        """The encoder of a transformers model, such as a `WhisperModel`, over the same weights.

        Raises:
            ValueError: as `HookedAudioTransformer.from_hf`.
        """
        family, cfg = encoder_in_hf(hf_model)
        with torch.device("meta"):
            encoder = cls.of(cfg)
        share_encoder(hf_model, family, encoder)
        encoder.feature_extractor = feature_extractor
        return encoder.eval()

    def features(
        self, audio: Any, sampling_rate: Rate | None = None
    ) -> tuple[Float[Tensor, "audio n_mels mel_frame"], Int[Tensor, " audio"]]:
        """What the encoder reads of a clip or a list of clips: spectrograms and their lengths in frames.

        Clips are as of `inputs.load_audio`; one may last as long as a spectrogram does.

        Raises:
            ValueError: without a feature extractor, and what `load_audio` raises.
        """
        extractor = self.feature_extractor
        if extractor is None:
            raise ValueError(
                "This encoder came without a feature extractor (preprocessor_config.json): give it "
                "the spectrograms themselves, encoder(mel, mel_lengths)."
            )
        clips: Sequence[Any] = clip_rows(audio, None)[0]
        rate = extractor.sampling_rate
        waves = [
            load_audio(
                clip,
                sampling_rate,
                target_rate=rate,
                limit_seconds=extractor.n_samples / rate,
                hop_length=extractor.hop_length,
                timing=self.cfg.timing,
            )
            for clip in clips
        ]
        made = extractor(
            waves,
            sampling_rate=rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = self.conv1.weight.device
        return made["input_features"].to(device), made["attention_mask"].sum(-1).to(device)


class HookedAuTEncoder(HookedAudioEncoder, AuTEncoder):
    """The same of AuT."""
