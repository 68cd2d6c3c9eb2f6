"""Synthetic sounds, questions about them, and the small Qwen2-Audio trained to answer.

from lens_audio import testbed

testbed.checkpoint_dir()                      # a folder for `from_pretrained`
testbed.make_items(100, seed=7, caption="false")
testbed.demo_item()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lens_audio.lazy_imports import on_first_use

if TYPE_CHECKING:
    from lens_audio.testbed.demo import demo_clip, demo_item
    from lens_audio.testbed.items import Item, make_item, make_items
    from lens_audio.testbed.sounds import CLASSES, SAMPLING_RATE, Clip, make_clip, silence

_HOMES = {
    "demo_clip": "testbed.demo",
    "demo_item": "testbed.demo",
    "Item": "testbed.items",
    "make_item": "testbed.items",
    "make_items": "testbed.items",
    "CLASSES": "testbed.sounds",
    "SAMPLING_RATE": "testbed.sounds",
    "Clip": "testbed.sounds",
    "make_clip": "testbed.sounds",
    "silence": "testbed.sounds",
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


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
