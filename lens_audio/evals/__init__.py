"""Benchmarks: their items, and the paper's protocol on them."""

from lens_audio.evals import mmau
from lens_audio.evals.items import AudioQADataset, AudioQAItem
from lens_audio.evals.prompts import wording
from lens_audio.evals.protocol import Settings
from lens_audio.evals.results import Results
from lens_audio.evals.run import evaluate

__all__ = [
    "AudioQADataset",
    "AudioQAItem",
    "Results",
    "Settings",
    "evaluate",
    "mmau",
    "wording",
]
