"""The former place of `analysis.patching.paths`, until the next release."""

from lens_audio.analysis.patching.paths import path_patch

__all__ = ["path_patch"]
