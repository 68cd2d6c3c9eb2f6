"""Benchmarks: their items, and the paper's protocol on them."""

from typing import TYPE_CHECKING

from lens_audio.lazy_imports import on_first_use

if TYPE_CHECKING:
    from lens_audio.data.items import AudioQAItem
    from lens_audio.data.wording import wording
    from lens_audio.evals import benchmarks, localisation, metrics
    from lens_audio.evals.asking import Asking
    from lens_audio.evals.benchmarks import mmau
    from lens_audio.evals.items import AudioQADataset
    from lens_audio.evals.protocol import Settings
    from lens_audio.evals.results import Results
    from lens_audio.evals.run import evaluate
    from lens_audio.evals.runs import over_noise, silenced

# Imported on first use, so that a benchmark's questions are read without torch.
_HOMES = {
    "Asking": "evals.asking",
    "AudioQADataset": "evals.items",
    "AudioQAItem": "data.items",
    "Results": "evals.results",
    "Settings": "evals.protocol",
    "evaluate": "evals.run",
    "over_noise": "evals.runs",
    "silenced": "evals.runs",
    "mmau": "evals.benchmarks",
    "wording": "data.wording",
}

__all__ = [
    "Asking",
    "AudioQADataset",
    "AudioQAItem",
    "Results",
    "Settings",
    "benchmarks",
    "evaluate",
    "localisation",
    "metrics",
    "mmau",
    "over_noise",
    "silenced",
    "wording",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES, ["benchmarks", "localisation", "metrics"])
