"""Attribution patching, by its public name; its home is `analysis.patching.attribution`."""

from lens_audio.analysis.patching.attribution import attribute, rank_correlation

__all__ = ["attribute", "rank_correlation"]
