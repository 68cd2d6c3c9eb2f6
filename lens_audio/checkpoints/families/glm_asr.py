"""GLM-ASR."""

from typing import Any

from transformers import GlmAsrConfig

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, ProjectorConfig, PromptParts

MAX_WINDOWS = 22  # of 30 s: its processor's 11 minutes
ENCODER = "audio_encoder.blocks.*"


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes."""
    whole: Any = GlmAsrConfig.from_dict(config | {"model_type": "glmasr"})
    text, audio = whole.text_config, whole.audio_config
    if audio.intermediate_size % audio.hidden_size or audio.hidden_size % audio.num_attention_heads:
        raise ValueError(
            f"audio_config: hidden_size {audio.hidden_size} must be a multiple of "
            f"num_attention_heads {audio.num_attention_heads} and divide intermediate_size "
            f"{audio.intermediate_size}"
        )
    d_head = audio.hidden_size // audio.num_attention_heads
    rope = audio.rope_parameters
    encoder = AudioEncoderConfig(
        d_model=audio.hidden_size,
        d_head=d_head,
        n_heads=audio.num_attention_heads,
        n_key_value_heads=audio.num_key_value_heads,
        n_layers=audio.num_hidden_layers,
        n_ctx=audio.max_position_embeddings,
        d_mlp=audio.intermediate_size,
        act_fn=audio.hidden_act,
        n_mels=audio.num_mel_bins,
        positional_embedding_type="rotary",
        rotary_base=float(rope["rope_theta"]),
        rotary_dim=int(d_head * rope.get("partial_rotary_factor", 1.0)),
        pool=1,
        stack=audio.intermediate_size // audio.hidden_size,
        masks_padding=False,
        max_windows=MAX_WINDOWS,
    )
    encoder.mel_per_window = encoder.max_mel_frames
    return AudioModelConfig(
        **parts.model_sizes(whole, generation),
        audio=encoder,
        projector=ProjectorConfig(d_hidden=2 * text.hidden_size, act_fn=whole.projector_hidden_act),
    )


GLM_ASR = Family(
    name="GLM-ASR",
    architectures=("GlmAsrForConditionalGeneration",),
    model_types=("glmasr",),
    read_config=read_config,
    read_processor=parts.read_processor,
    names=parts.decoder_names()
    | parts.two_linears()
    | {
        "audio_tower.layers.*.input_layernorm.weight": f"{ENCODER}.ln1.w",
        "audio_tower.layers.*.input_layernorm.bias": f"{ENCODER}.ln1.b",
        "audio_tower.layers.*.post_attention_layernorm.weight": f"{ENCODER}.ln2.w",
        "audio_tower.layers.*.post_attention_layernorm.bias": f"{ENCODER}.ln2.b",
        "audio_tower.layers.*.mlp.fc1.*": f"{ENCODER}.mlp.up_proj.*",
        "audio_tower.layers.*.mlp.fc2.*": f"{ENCODER}.mlp.down_proj.*",
        **parts.whisper_names(final_norm="norm"),
    },
    aliases=parts.IN_MEMORY,
    fields={
        "audio_token_id": fields.TOKEN,
        "projector_hidden_act": fields.ACTIVATION,
        "tie_word_embeddings": fields.FLAG,
        **parts.decoder_fields("llama"),
        "text_config.attention_bias": fields.FLAG,
        "text_config.mlp_bias": fields.FLAG,
        **parts.whisper_fields("glmasr_encoder"),
        "audio_config.max_position_embeddings": fields.POSITIONS,
    },
    prompt_parts=PromptParts(
        opening=None, closing=None, mel_mask="input_features_mask", max_clips=1
    ),
    in_transformers=parts.in_transformers("norm"),
)
