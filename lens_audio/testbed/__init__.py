"""Synthetic sounds, questions about them, and the small Qwen2-Audio trained to answer.

from lens_audio import testbed

testbed.checkpoint_dir()                      # a folder for `from_pretrained`
testbed.make_items(100, seed=7, caption="false")
testbed.demo_item()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_audio.testbed.demo import demo_clip, demo_item
    from lens_audio.testbed.items import Item, make_item, make_items
    from lens_audio.testbed.sounds import CLASSES, SAMPLING_RATE, Clip, make_clip, silence

_HOMES = {
    "demo_clip": "demo",
    "demo_item": "demo",
    "Item": "items",
    "make_item": "items",
    "make_items": "items",
    "CLASSES": "sounds",
    "SAMPLING_RATE": "sounds",
    "Clip": "sounds",
    "make_clip": "sounds",
    "silence": "sounds",
}

__all__ = [
    "CLASSES",
    "SAMPLING_RATE",
    "Clip",
    "Item",
    "checkpoint_dir",
    "demo_clip",
    "demo_item",
    "make_clip",
    "make_item",
    "make_items",
    "silence",
]


def checkpoint_dir() -> Path:
    """The folder of the embedded checkpoint: config, weights, processor, model card."""
    return Path(__file__).parent / "checkpoint"


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use: `import lens_audio` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
