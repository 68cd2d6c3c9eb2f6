"""What a model is asked about: items, their prompts in batches, its answers, pairs of prompts."""

from typing import TYPE_CHECKING

from lens_audio.lazy_imports import on_first_use

if TYPE_CHECKING:
    from lens_audio.data.collect import collecting
    from lens_audio.data.encoder import encoder_activations
    from lens_audio.data.items import AudioQAItem, check_items, split_items
    from lens_audio.data.pairs import Group, Pair, pair

# Imported on first use, so that a benchmark's questions are read without torch.
_HOMES = {
    "AudioQAItem": "data.items",
    "Group": "data.pairs",
    "Pair": "data.pairs",
    "check_items": "data.items",
    "collecting": "data.collect",
    "encoder_activations": "data.encoder",
    "pair": "data.pairs",
    "split_items": "data.items",
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

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
