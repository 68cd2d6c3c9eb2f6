"""The table of checkpoint families. docs/adding_a_family.md tells how to add one."""

from collections.abc import Sequence
from reprlib import repr as shortened

from lens_audio.checkpoints.families.audio_flamingo import AUDIO_FLAMINGO_3, MUSIC_FLAMINGO
from lens_audio.checkpoints.families.glm_asr import GLM_ASR
from lens_audio.checkpoints.families.qwen2_5_omni import QWEN2_5_OMNI
from lens_audio.checkpoints.families.qwen2_audio import QWEN2_AUDIO
from lens_audio.checkpoints.families.qwen3_asr import QWEN3_ASR
from lens_audio.checkpoints.families.qwen_audio import QWEN_AUDIO
from lens_audio.checkpoints.families.voxtral import VOXTRAL
from lens_audio.checkpoints.families.whisper import WHISPER
from lens_audio.checkpoints.family import Family, Json, architectures_of

FAMILIES: list[Family] = [
    QWEN2_AUDIO,
    QWEN_AUDIO,
    QWEN2_5_OMNI,
    AUDIO_FLAMINGO_3,
    MUSIC_FLAMINGO,
    VOXTRAL,
    QWEN3_ASR,
    GLM_ASR,
]


ENCODERS: list[Family] = [WHISPER]  # of which the encoder alone is loaded


def family_of(config: Json, table: Sequence[Family] | None = None) -> Family:
    """The family that a config.json is of: by its architecture, or else by its model type.

    Args:
        table: the families to look among (default: `FAMILIES`).

    Raises:
        ValueError: for another architecture.
    """
    named, table = architectures_of(config), FAMILIES if table is None else table
    for family in table:
        if any(architecture in family.architectures for architecture in named):
            return family
    for family in table:
        if config.get("model_type") in family.model_types:
            return family
    known = "; ".join(f"{family.name} ({', '.join(family.architectures)})" for family in table)
    raise ValueError(
        f"this is a {shortened(named or config.get('model_type'))}; lens_audio loads {known}"
    )
