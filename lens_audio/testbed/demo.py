"""The bundled demo: one held-out clip and its question.

`python -m lens_audio.testbed.demo` writes the two files again from their seed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile

from lens_audio import files
from lens_audio.testbed.items import Item, make_items

DEMO_SEED, DEMO_INDEX = 2026, 18
CLIPS = Path(__file__).parent / "clips"


def demo_clip() -> Path:
    """The bundled recording, a PCM16 wav."""
    return CLIPS / "demo.wav"


def demo_item() -> Item:
    """The bundled clip with its question and choices, without a caption."""
    facts = json.loads((CLIPS / "demo.json").read_text(encoding="utf-8"))
    waveform, rate = soundfile.read(demo_clip(), dtype="float32")
    return Item(audio=(np.asarray(waveform), rate), **facts)


def write_demo() -> None:
    """Draw the demo item from its held-out seed and write `clips/demo.wav` and `demo.json`."""
    item = make_items(DEMO_INDEX + 1, DEMO_SEED)[DEMO_INDEX]
    CLIPS.mkdir(exist_ok=True)
    with files.replacing(demo_clip()) as unfinished:
        soundfile.write(unfinished, item.waveform, item.sampling_rate, "PCM_16", format="WAV")
    facts = asdict(item)
    del facts["audio"], facts["facts"], facts["record"]
    text = json.dumps(facts, indent=2) + "\n"
    files.write_text(CLIPS / "demo.json", text)


if __name__ == "__main__":
    write_demo()
