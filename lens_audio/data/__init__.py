"""What a model is asked about: pairs of prompts that line up."""

from lens_audio.data.pairs import Group, Pair, pair

__all__ = ["Group", "Pair", "pair"]
