"""Audio encoders: Whisper's, and AuT, which differs before the blocks."""

from lens_audio.config import AudioEncoderConfig
from lens_audio.model.encoders.aut import HookedAuTEncoder
from lens_audio.model.encoders.whisper import HookedAudioEncoder


def make_encoder(cfg: AudioEncoderConfig) -> HookedAudioEncoder:
    """The encoder that the config is of."""
    return HookedAudioEncoder(cfg) if cfg.conv_channels is None else HookedAuTEncoder(cfg)


__all__ = ["HookedAuTEncoder", "HookedAudioEncoder", "make_encoder"]
