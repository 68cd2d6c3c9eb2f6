"""The table of checkpoint families. docs/adding_a_family.md tells how to add one."""

from reprlib import repr as shortened
from typing import Any

from lens_audio.checkpoints.family import Family
from lens_audio.checkpoints.qwen2_audio import QWEN2_AUDIO
from lens_audio.checkpoints.qwen_audio import QWEN_AUDIO

FAMILIES: list[Family] = [QWEN2_AUDIO, QWEN_AUDIO]


def family_of(config: dict[str, Any]) -> Family:
    """The family that a config.json is of.

    Raises:
        ValueError: for another architecture.
    """
    for family in FAMILIES:
        if family.fits(config):
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    raise ValueError(
        f"this is a {shortened(config.get('architectures') or config.get('model_type'))}; "
        f"lens_audio loads {known}"
    )
