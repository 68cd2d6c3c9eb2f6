"""What loads: checkpoint folders, hub ids and in-memory transformers models."""

from importlib import import_module
from typing import Any

from lens_audio.checkpoints.families import FAMILIES
from lens_audio.checkpoints.family import Family

__all__ = ["FAMILIES", "Family"]

# Until the next release: what are methods of HookedAudioTransformer now.
_MOVED = {"load_pretrained": "from_pretrained", "from_hf": "from_hf"}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        facade = import_module("lens_audio.audio_model").HookedAudioTransformer
        return getattr(facade, _MOVED[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
