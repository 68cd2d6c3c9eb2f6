"""Benchmarks: their items, and the paper's protocol on them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_audio.data.items import AudioQAItem
    from lens_audio.data.wording import wording
    from lens_audio.evals import mmau
    from lens_audio.evals.items import AudioQADataset
    from lens_audio.evals.protocol import Settings
    from lens_audio.evals.report import Results
    from lens_audio.evals.run import evaluate

# Imported on first use, so that a benchmark's questions are read without torch.
_HOMES = {
    "AudioQADataset": "evals.items",
    "AudioQAItem": "data.items",
    "Results": "evals.report",
    "Settings": "evals.protocol",
    "evaluate": "evals.run",
    "wording": "data.wording",
}

__all__ = [
    "AudioQADataset",
    "AudioQAItem",
    "Results",
    "Settings",
    "evaluate",
    "mmau",
    "wording",
]


def __getattr__(name: str) -> Any:
    if name == "mmau":
        return import_module("lens_audio.evals.mmau")
    if name in _HOMES:
        return getattr(import_module(f"lens_audio.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
