"""The Qwen2-Audio family (R1-AQA included)."""

from typing import Any

from transformers import Qwen2AudioConfig

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes.

    Raises:
        ValueError: for a feature of Qwen2 that no Qwen2-Audio checkpoint uses.
    """
    whole: Any = Qwen2AudioConfig.from_dict(config | {"model_type": "qwen2_audio"})
    return AudioModelConfig(
        **parts.model_sizes(whole, generation),
        audio=AudioEncoderConfig(**parts.whisper_sizes(whole.audio_config)),
    )


QWEN2_AUDIO = Family(
    name="Qwen2-Audio",
    architectures=("Qwen2AudioForConditionalGeneration",),
    model_types=("qwen2_audio",),
    read_config=read_config,
    read_processor=parts.read_processor,
    names=parts.decoder_names()
    | parts.whisper_names()
    | {"multi_modal_projector.linear.*": "audio_projector.linear.*"},
    aliases=parts.IN_MEMORY,
    fields={
        "audio_token_index": fields.TOKEN,
        "audio_token_id": fields.TOKEN,
        "tie_word_embeddings": fields.FLAG,
        **parts.decoder_fields("qwen2"),
        **parts.whisper_fields("qwen2_audio_encoder"),
    },
    in_transformers=parts.in_transformers(),
)
