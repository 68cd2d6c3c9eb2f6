"""Synthetic sounds, questions about them, and small Qwen2-Audio models trained to answer.

from lens_audio import testbed

testbed.checkpoint_dir()                      # a folder for `from_pretrained`
testbed.checkpoint_dir("planted")             # one whose readers of the audio are known:
testbed.truth("planted").readers
testbed.make_scene_items(100, seed=7)         # what it is asked
testbed.make_items(100, seed=7, caption="false")
testbed.demo_item()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lens_audio.lazy_imports import on_first_use

if TYPE_CHECKING:
    from lens_audio.testbed.demo import demo_clip, demo_item
    from lens_audio.testbed.ground_truth import Truth, truth
    from lens_audio.testbed.items import Item, make_item, make_items
    from lens_audio.testbed.scenes import (
        SceneItem,
        ScenePair,
        make_scene_items,
        make_scene_pairs,
    )
    from lens_audio.testbed.sounds import CLASSES, SAMPLING_RATE, Clip, make_clip, silence

KNOWN = ("emergent", "planted", "graded")  # checkpoints whose readers are known
CHECKPOINTS = ("listen", *KNOWN)

_HOMES = {
    "demo_clip": "testbed.demo",
    "demo_item": "testbed.demo",
    "Item": "testbed.items",
    "make_item": "testbed.items",
    "make_items": "testbed.items",
    "SceneItem": "testbed.scenes",
    "ScenePair": "testbed.scenes",
    "make_scene_items": "testbed.scenes",
    "make_scene_pairs": "testbed.scenes",
    "CLASSES": "testbed.sounds",
    "SAMPLING_RATE": "testbed.sounds",
    "Clip": "testbed.sounds",
    "make_clip": "testbed.sounds",
    "silence": "testbed.sounds",
    "Truth": "testbed.ground_truth",
    "truth": "testbed.ground_truth",
}

__all__ = [
    "CHECKPOINTS",
    "CLASSES",
    "KNOWN",
    "SAMPLING_RATE",
    "Clip",
    "Item",
    "SceneItem",
    "ScenePair",
    "Truth",
    "checkpoint_dir",
    "demo_clip",
    "demo_item",
    "make_clip",
    "make_item",
    "make_items",
    "make_scene_items",
    "make_scene_pairs",
    "silence",
    "truth",
]


def is_embedded(name: str | None) -> bool:
    """Whether it is the name of an embedded checkpoint, and not of something that is there."""
    return name in CHECKPOINTS and not Path(name).exists()


def checkpoint_dir(name: str = "listen") -> Path:
    """The folder of an embedded checkpoint: config, weights, processor, model card.

    Args:
        name: "listen" knows sixteen sounds and is what the commands use by default; "emergent",
            "planted" and "graded" are those of which `truth` tells who reads the audio.

    Raises:
        ValueError: for another name.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"no checkpoint {name!r}; choose one of {', '.join(CHECKPOINTS)}")
    return Path(__file__).parent / "checkpoints" / name


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
