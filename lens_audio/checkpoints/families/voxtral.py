"""Voxtral Mini and Small."""

from typing import Any

from transformers import VoxtralConfig

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, ProjectorConfig, PromptParts

MAX_WINDOWS = 80  # of 30 s: what 32,768 tokens of context have room for, at 375 a window


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes; every window makes all of its tokens, the silence that it is padded with included.

    Raises:
        ValueError: for outputs of the encoder that cannot be stacked to the projector's input.
    """
    whole: Any = VoxtralConfig.from_dict(config | {"model_type": "voxtral"})
    text, audio = whole.text_config, whole.audio_config
    if audio.intermediate_size % audio.hidden_size:
        raise ValueError(
            f"audio_config: intermediate_size {audio.intermediate_size} is no multiple of "
            f"hidden_size {audio.hidden_size}, of which the projector reads several side by side"
        )
    encoder = AudioEncoderConfig(
        **parts.whisper_sizes(audio),
        pool=1,
        stack=audio.intermediate_size // audio.hidden_size,
        masks_padding=False,
        float32_positions=True,
        max_windows=MAX_WINDOWS,
    )
    encoder.mel_per_window = encoder.max_mel_frames
    return AudioModelConfig(
        **parts.model_sizes(whole, generation),
        audio=encoder,
        projector=ProjectorConfig(
            d_hidden=text.hidden_size, act_fn=whole.projector_hidden_act, bias=False
        ),
    )


VOXTRAL = Family(
    name="Voxtral",
    architectures=("VoxtralForConditionalGeneration",),
    model_types=("voxtral",),
    read_config=read_config,
    read_processor=parts.read_processor,
    names=parts.decoder_names() | parts.whisper_names() | parts.two_linears(),
    aliases=parts.IN_MEMORY,
    fields={
        "audio_token_id": fields.TOKEN,
        "projector_hidden_act": fields.ACTIVATION,
        "tie_word_embeddings": fields.FLAG,
        **parts.decoder_fields("llama"),
        "text_config.attention_bias": fields.FLAG,
        "text_config.mlp_bias": fields.FLAG,
        **parts.whisper_fields("voxtral_encoder"),
    },
    float32=("audio_encoder.W_pos",),
    prompt_parts=PromptParts(opening=None, closing=None, mel_mask=None),
    in_transformers=parts.in_transformers(),
)
