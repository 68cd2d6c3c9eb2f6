"""The former place of `analysis.patching.attribution`, until the next release."""

from lens_audio.analysis.patching.attribution import attribute, rank_correlation

__all__ = ["attribute", "rank_correlation"]
