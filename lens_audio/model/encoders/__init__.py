"""Audio encoders: Whisper's, and AuT, which differs before the blocks."""

from lens_audio.model.encoders.aut import AuTEncoder
from lens_audio.model.encoders.whisper import AudioEncoder

__all__ = ["AuTEncoder", "AudioEncoder"]
