"""Published benchmarks, a file each."""

from lens_audio.evals.benchmarks import mmau
