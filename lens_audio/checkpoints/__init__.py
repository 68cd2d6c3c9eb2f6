"""What loads: checkpoint folders, hub ids and in-memory transformers models."""

from lens_audio.checkpoints.hf import from_hf
from lens_audio.checkpoints.pretrained import load_pretrained

__all__ = ["from_hf", "load_pretrained"]
