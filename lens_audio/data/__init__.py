"""What a model is asked about: items, their prompts in batches, its answers, pairs of prompts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_audio.data.collect import collecting
    from lens_audio.data.encoder import encoder_activations
    from lens_audio.data.items import AudioQAItem, check_items, split_items
    from lens_audio.data.pairs import Group, Pair, pair

# Imported on first use, so that a benchmark's questions are read without torch.
_HOMES = {
    "AudioQAItem": "items",
    "Group": "pairs",
    "Pair": "pairs",
    "check_items": "items",
    "collecting": "collect",
    "encoder_activations": "encoder",
    "pair": "pairs",
    "split_items": "items",
}

__all__ = [
    "AudioQAItem",
    "Group",
    "Pair",
    "check_items",
    "collecting",
    "encoder_activations",
    "pair",
    "split_items",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
