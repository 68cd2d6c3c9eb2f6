"""The table of checkpoint families. docs/adding_a_family.md tells how to add one."""

from reprlib import repr as shortened

from lens_audio.checkpoints.families.audio_flamingo import AUDIO_FLAMINGO_3, MUSIC_FLAMINGO
from lens_audio.checkpoints.families.glm_asr import GLM_ASR
from lens_audio.checkpoints.families.qwen2_5_omni import QWEN2_5_OMNI
from lens_audio.checkpoints.families.qwen2_audio import QWEN2_AUDIO
from lens_audio.checkpoints.families.qwen3_asr import QWEN3_ASR
from lens_audio.checkpoints.families.qwen_audio import QWEN_AUDIO
from lens_audio.checkpoints.families.voxtral import VOXTRAL
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


def family_of(config: Json) -> Family:
    """The family that a config.json is of: by its architecture, or else by its model type.

    Raises:
        ValueError: for another architecture.
    """
    named = architectures_of(config)
    for family in FAMILIES:
        if any(architecture in family.architectures for architecture in named):
            return family
    for family in FAMILIES:
        if config.get("model_type") in family.model_types:
            return family
    known = "; ".join(f"{family.name} ({', '.join(family.architectures)})" for family in FAMILIES)
    raise ValueError(
        f"this is a {shortened(named or config.get('model_type'))}; lens_audio loads {known}"
    )
