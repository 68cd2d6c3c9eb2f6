"""What runs: the port."""

from importlib import import_module
from typing import Any

from lens_audio.model.activation_cache import ActivationCache
from lens_audio.model.hooked_transformer import HookedTransformer
from lens_audio.model.kv_cache import KeyValueCache

__all__ = [
    "ActivationCache",
    "HookedTransformer",
    "KeyValueCache",
]


def __getattr__(name: str) -> Any:
    if name == "HookedAudioTransformer":  # until the next release
        return import_module("lens_audio.audio_model").HookedAudioTransformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
