"""Benchmarks."""

from lens_audio.evals import mmau

__all__ = ["mmau"]
