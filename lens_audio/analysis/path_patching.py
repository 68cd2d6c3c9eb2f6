"""Path patching, by its public name; its home is `analysis.patching.paths`."""

from lens_audio.analysis.patching.paths import path_patch

__all__ = ["path_patch"]
