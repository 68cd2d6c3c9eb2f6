"""The Qwen2-Audio family (R1-AQA included)."""

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer, Qwen2AudioConfig

from lens_audio.checkpoints import fields
from lens_audio.checkpoints.family import Family, InTransformers, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, as_list

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes; the tokens that end an answer are the generation config's, if it has any.

    Raises:
        ValueError: for a feature of Qwen2 that no Qwen2-Audio checkpoint uses.
    """
    whole: Any = Qwen2AudioConfig.from_dict(config | {"model_type": "qwen2_audio"})
    text, audio = whole.text_config, whole.audio_config
    rope = dict(text.rope_parameters or {})
    if rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"rope_type {rope['rope_type']!r} is not supported; only 'default' is (the one of "
            "Qwen2-Audio)"
        )
    if getattr(text, "use_sliding_window", False):
        raise ValueError(
            "use_sliding_window is not supported: Qwen2-Audio attends to the whole context"
        )
    _check_heads(text, audio)
    eos = as_list(generation.get("eos_token_id")) or as_list(text.eos_token_id)
    return AudioModelConfig(
        model_name=getattr(whole, "name_or_path", "") or "qwen2_audio",
        d_model=text.hidden_size,
        d_head=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        n_heads=text.num_attention_heads,
        n_key_value_heads=text.num_key_value_heads,
        n_layers=text.num_hidden_layers,
        n_ctx=text.max_position_embeddings,
        d_mlp=text.intermediate_size,
        d_vocab=text.vocab_size,
        act_fn=text.hidden_act,
        eps=text.rms_norm_eps,
        rotary_base=rope.get("rope_theta", 10000.0),
        tie_word_embeddings=getattr(whole, "tie_word_embeddings", False)
        or text.tie_word_embeddings,
        audio_token_id=whole.audio_token_id,
        eos_token_ids=eos,
        pad_token_id=text.pad_token_id,
        audio=AudioEncoderConfig(
            d_model=audio.d_model,
            d_head=audio.d_model // audio.encoder_attention_heads,
            n_heads=audio.encoder_attention_heads,
            n_layers=audio.encoder_layers,
            n_ctx=audio.max_source_positions,
            d_mlp=audio.encoder_ffn_dim,
            act_fn=audio.activation_function,
            n_mels=audio.num_mel_bins,
        ),
    )


def _check_heads(text: Any, audio: Any) -> None:
    if text.num_attention_heads > text.hidden_size and not getattr(text, "head_dim", None):
        raise ValueError(
            f"text_config: num_attention_heads {text.num_attention_heads} is more than "
            f"hidden_size {text.hidden_size}"
        )
    if text.num_attention_heads % text.num_key_value_heads:
        raise ValueError(
            f"text_config: num_key_value_heads {text.num_key_value_heads} does not divide "
            f"num_attention_heads {text.num_attention_heads}"
        )
    if audio.d_model % audio.encoder_attention_heads:
        raise ValueError(
            f"audio_config: encoder_attention_heads {audio.encoder_attention_heads} does not "
            f"divide d_model {audio.d_model}"
        )


def read_processor(folder: Path, cfg: AudioModelConfig) -> tuple[Any, Any]:
    """Processor and tokenizer, or None for what has no files here."""
    tokenizer = processor = None
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if any((folder / name).is_file() for name in PROCESSOR_FILES):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            tokenizer = processor.tokenizer
    return processor, tokenizer


QWEN2_AUDIO = Family(
    name="Qwen2-Audio",
    architectures=("Qwen2AudioForConditionalGeneration",),
    model_types=("qwen2_audio",),
    read_config=read_config,
    read_processor=read_processor,
    names={
        "language_model.model.embed_tokens.weight": "embed.W_E",
        "language_model.model.norm.weight": "ln_final.w",
        "language_model.lm_head.weight": "unembed.lm_head.weight",
        "language_model.model.layers.*.input_layernorm.weight": "blocks.*.ln1.w",
        "language_model.model.layers.*.post_attention_layernorm.weight": "blocks.*.ln2.w",
        "language_model.model.layers.*.self_attn.*": "blocks.*.attn.*",
        "language_model.model.layers.*.mlp.*": "blocks.*.mlp.*",
        "audio_tower.conv1.*": "audio_encoder.conv1.*",
        "audio_tower.conv2.*": "audio_encoder.conv2.*",
        "audio_tower.embed_positions.weight": "audio_encoder.W_pos",
        "audio_tower.layer_norm.weight": "audio_encoder.ln_final.w",
        "audio_tower.layer_norm.bias": "audio_encoder.ln_final.b",
        "audio_tower.layers.*.self_attn_layer_norm.weight": "audio_encoder.blocks.*.ln1.w",
        "audio_tower.layers.*.self_attn_layer_norm.bias": "audio_encoder.blocks.*.ln1.b",
        "audio_tower.layers.*.final_layer_norm.weight": "audio_encoder.blocks.*.ln2.w",
        "audio_tower.layers.*.final_layer_norm.bias": "audio_encoder.blocks.*.ln2.b",
        "audio_tower.layers.*.self_attn.out_proj.*": "audio_encoder.blocks.*.attn.o_proj.*",
        "audio_tower.layers.*.self_attn.*": "audio_encoder.blocks.*.attn.*",
        "audio_tower.layers.*.fc1.*": "audio_encoder.blocks.*.mlp.up_proj.*",
        "audio_tower.layers.*.fc2.*": "audio_encoder.blocks.*.mlp.down_proj.*",
        "multi_modal_projector.linear.*": "audio_projector.linear.*",
    },
    # In memory, transformers >= 5.13 nests everything but the head under `model.`, and the decoder
    # has no `model.` of its own.
    aliases={
        r"^model\.(?=audio_tower|multi_modal_projector|language_model)": "",
        r"^language_model\.(?!model\.|lm_head\.)": "language_model.model.",
        r"^lm_head\.": "language_model.lm_head.",
    },
    fields={
        "audio_token_index": fields.TOKEN,
        "audio_token_id": fields.TOKEN,
        "tie_word_embeddings": fields.FLAG,
        "text_config": fields.or_null(fields.OBJECT),
        "text_config.model_type": fields.one_of("qwen2"),
        "text_config.hidden_size": fields.WIDTH,
        "text_config.intermediate_size": fields.WIDTH,
        "text_config.num_hidden_layers": fields.LAYERS,
        "text_config.num_attention_heads": fields.HEADS,
        "text_config.num_key_value_heads": fields.or_null(fields.HEADS),
        "text_config.head_dim": fields.or_null(fields.WIDTH),
        "text_config.vocab_size": fields.VOCABULARY,
        "text_config.max_position_embeddings": fields.POSITIONS,
        "text_config.hidden_act": fields.ACTIVATION,
        "text_config.rms_norm_eps": fields.EPS,
        "text_config.rope_theta": fields.or_null(fields.ROTARY_BASE),
        "text_config.rope_scaling": fields.or_null(fields.OBJECT),
        "text_config.rope_parameters": fields.or_null(fields.OBJECT),
        "text_config.rope_parameters.rope_theta": fields.ROTARY_BASE,
        "text_config.use_sliding_window": fields.FLAG,
        "text_config.tie_word_embeddings": fields.FLAG,
        "text_config.eos_token_id": fields.or_null(fields.or_several(fields.TOKEN)),
        "text_config.pad_token_id": fields.or_null(fields.TOKEN),
        "text_config.dtype": fields.or_null(fields.torch_dtype),
        "text_config.torch_dtype": fields.or_null(fields.torch_dtype),
        "audio_config": fields.or_null(fields.OBJECT),
        "audio_config.model_type": fields.one_of("qwen2_audio_encoder"),
        "audio_config.d_model": fields.WIDTH,
        "audio_config.encoder_ffn_dim": fields.WIDTH,
        "audio_config.encoder_layers": fields.LAYERS,
        "audio_config.encoder_attention_heads": fields.HEADS,
        "audio_config.max_source_positions": fields.POSITIONS,
        "audio_config.num_mel_bins": fields.WIDTH,
        "audio_config.activation_function": fields.ACTIVATION,
    },
    in_transformers=InTransformers(
        decoder="model.language_model",
        encoder_blocks="model.audio_tower.layers",
        encoder_out="model.audio_tower.layer_norm",
        projector="model.multi_modal_projector",
    ),
)
