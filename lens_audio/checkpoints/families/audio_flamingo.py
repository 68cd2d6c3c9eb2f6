"""Audio Flamingo 3, and Music Flamingo and Audio Flamingo Next, which also tell it the time."""

from dataclasses import replace
from typing import Any

from transformers import AudioFlamingo3Config, MusicFlamingoConfig

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, ProjectorConfig, PromptParts

AUDIO_FLAMINGO_WINDOWS, MUSIC_FLAMINGO_WINDOWS = 20, 40  # of 30 s: 10 and 20 minutes


def sizes(whole: Any, generation: Json, max_windows: int) -> AudioModelConfig:
    """Of a transformers config of either."""
    text, audio = whole.text_config, whole.audio_config
    encoder = AudioEncoderConfig(**parts.whisper_sizes(audio), max_windows=max_windows)
    encoder.mel_per_window = encoder.max_mel_frames
    return AudioModelConfig(
        **parts.model_sizes(whole, generation),
        audio=encoder,
        projector=ProjectorConfig(
            d_hidden=text.hidden_size,
            act_fn=whole.projector_hidden_act,
            bias=whole.projector_bias,
        ),
    )


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes of an Audio Flamingo 3."""
    whole = AudioFlamingo3Config.from_dict(config | {"model_type": "audioflamingo3"})
    return sizes(whole, generation, AUDIO_FLAMINGO_WINDOWS)


def read_music_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes of a Music Flamingo."""
    whole: Any = MusicFlamingoConfig.from_dict(config | {"model_type": "musicflamingo"})
    cfg = sizes(whole, generation, MUSIC_FLAMINGO_WINDOWS)
    rope = whole.rope_parameters
    cfg.projector = replace(
        cfg.projector,
        time_rotary_base=float(rope["rope_theta"]),
        time_rotary_dim=int(whole.head_dim * rope.get("partial_rotary_factor", 1.0)),
        seconds_per_frame=whole.audio_frame_step * cfg.audio.mel_frames_per_token,
    )
    return cfg


AUDIO_FLAMINGO_3 = Family(
    name="Audio Flamingo 3",
    architectures=("AudioFlamingo3ForConditionalGeneration",),
    model_types=("audioflamingo3",),
    read_config=read_config,
    read_processor=parts.read_processor,
    names=parts.decoder_names() | parts.whisper_names() | parts.two_linears(),
    aliases=parts.IN_MEMORY,
    fields={
        "audio_token_id": fields.TOKEN,
        "projector_hidden_act": fields.ACTIVATION,
        "projector_bias": fields.FLAG,
        "tie_word_embeddings": fields.FLAG,
        **parts.decoder_fields("qwen2"),
        **parts.whisper_fields("audioflamingo3_encoder", "musicflamingo_encoder"),
    },
    # Music Flamingo's processor itself puts tokens around a clip.
    prompt_parts=PromptParts(
        opening=None, closing=None, mel_mask="input_features_mask", max_clips=1
    ),
    in_transformers=parts.in_transformers(),
)

MUSIC_FLAMINGO = replace(
    AUDIO_FLAMINGO_3,
    name="Music Flamingo",
    architectures=("MusicFlamingoForConditionalGeneration",),
    model_types=("musicflamingo",),
    read_config=read_music_config,
    fields={
        **AUDIO_FLAMINGO_3.fields,
        "audio_frame_step": fields.number(1e-4, 1.0),
        "rope_parameters": fields.or_null(fields.OBJECT),
    },
)
