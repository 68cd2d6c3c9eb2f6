"""Until the next release: what is in `checkpoints.families.qwen2_audio` now."""

from lens_audio.checkpoints.families.qwen2_audio import QWEN2_AUDIO

__all__ = ["QWEN2_AUDIO"]
