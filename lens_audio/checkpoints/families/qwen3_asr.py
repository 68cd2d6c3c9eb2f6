"""Qwen3-ASR."""

from typing import Any

from transformers import Qwen3ASRConfig

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, ProjectorConfig, PromptParts

DECODER, TOWER = "model.language_model", "model.audio_tower"


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes.

    Raises:
        ValueError: for the layout of the authors' own code, and for attention windows that are not
            whole chunks.
    """
    if "thinker_config" in config:
        raise ValueError(
            "config.json has a thinker_config: this Qwen3-ASR is laid out for its authors' own code. "
            "Take the checkpoint in transformers' layout, whose name ends in -hf"
        )
    whole: Any = Qwen3ASRConfig.from_dict(config | {"model_type": "qwen3_asr"})
    audio = whole.audio_config
    chunk = 2 * audio.n_window
    if audio.n_window_infer % chunk:
        raise ValueError(
            f"audio_config: n_window_infer {audio.n_window_infer} is no multiple of the chunk of "
            f"{chunk} mel frames"
        )
    if audio.d_model % audio.encoder_attention_heads or audio.d_model % 2:
        raise ValueError(
            f"audio_config: d_model {audio.d_model} must be even and a multiple of "
            f"encoder_attention_heads {audio.encoder_attention_heads}"
        )
    encoder = AudioEncoderConfig(
        d_model=audio.d_model,
        d_head=audio.d_model // audio.encoder_attention_heads,
        n_heads=audio.encoder_attention_heads,
        n_layers=audio.encoder_layers,
        n_ctx=audio.max_position_embeddings,
        d_mlp=audio.encoder_ffn_dim,
        act_fn=audio.activation_function,
        n_mels=audio.num_mel_bins,
        attn_bias="qkvo",
        positional_embedding_type="sinusoidal",
        conv_channels=audio.downsample_hidden_size,
        conv_stride=8,
        pool=1,
        chunk_frames=chunk,
        window_frames=audio.n_window_infer,
        max_windows=None,
    )
    return AudioModelConfig(
        **parts.model_sizes(whole, generation),
        use_qk_norm=True,
        audio=encoder,
        projector=ProjectorConfig(d_hidden=audio.d_model, act_fn=audio.activation_function),
    )


QWEN3_ASR = Family(
    name="Qwen3-ASR",
    architectures=("Qwen3ASRForConditionalGeneration",),
    model_types=("qwen3_asr",),
    read_config=read_config,
    read_processor=parts.read_processor,
    names={
        f"{DECODER}.layers.*.self_attn.q_norm.weight": "blocks.*.attn.q_norm.w",
        f"{DECODER}.layers.*.self_attn.k_norm.weight": "blocks.*.attn.k_norm.w",
        **parts.decoder_names(DECODER, head=""),
        f"{TOWER}.conv2d1.*": "audio_encoder.conv1.*",
        f"{TOWER}.conv2d2.*": "audio_encoder.conv2.*",
        f"{TOWER}.conv2d3.*": "audio_encoder.conv3.*",
        f"{TOWER}.conv_out.*": "audio_encoder.conv_out.*",
        **parts.whisper_names("ln_post", TOWER),
        **parts.two_linears("model.multi_modal_projector"),
    },
    fields={
        "audio_token_id": fields.TOKEN,
        "tie_word_embeddings": fields.FLAG,
        **parts.decoder_fields("qwen3"),
        "text_config.attention_bias": fields.FLAG,
        **parts.whisper_fields("qwen3_asr_encoder"),
        "audio_config.n_window": fields.POSITIONS,
        "audio_config.n_window_infer": fields.POSITIONS,
        "audio_config.downsample_hidden_size": fields.WIDTH,
    },
    prompt_parts=PromptParts(mel_mask="input_features_mask", max_clips=1),
    in_transformers=parts.in_transformers("ln_post"),
)
