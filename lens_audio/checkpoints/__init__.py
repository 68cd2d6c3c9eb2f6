"""What loads: checkpoint folders, hub ids and in-memory transformers models."""

from lens_audio.checkpoints.families import FAMILIES
from lens_audio.checkpoints.family import Family
from lens_audio.checkpoints.hf import from_hf
from lens_audio.checkpoints.pretrained import load_pretrained

__all__ = ["FAMILIES", "Family", "from_hf", "load_pretrained"]
