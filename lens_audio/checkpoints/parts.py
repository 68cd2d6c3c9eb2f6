"""What families share: decoders and Whisper encoders as transformers has them, and its processors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer

from lens_audio.checkpoints import fields
from lens_audio.checkpoints.family import InTransformers, Json
from lens_audio.checkpoints.fields import Check
from lens_audio.config import AudioModelConfig, as_list

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
Names = dict[str, str | tuple[str, ...]]

# In memory, transformers >= 5.13 nests everything but the head under `model.`, and the decoder has
# no `model.` of its own.
IN_MEMORY = {
    r"^model\.(?=audio_tower|multi_modal_projector|language_model)": "",
    r"^language_model\.(?!model\.|lm_head\.)": "language_model.model.",
    r"^lm_head\.": "language_model.lm_head.",
}


def model_sizes(whole: Any, generation: Json) -> dict[str, Any]:
    """Of a transformers config with a `text_config`, what an `AudioModelConfig` takes beside its
    encoder and projector.

    Raises:
        ValueError: as `decoder_sizes`.
    """
    text = whole.text_config
    return decoder_sizes(text, generation) | {
        "model_name": getattr(whole, "name_or_path", "") or whole.model_type,
        "tie_word_embeddings": getattr(whole, "tie_word_embeddings", False)
        or text.tie_word_embeddings,
        "audio_token_id": whole.audio_token_id,
    }


def decoder_sizes(text: Any, generation: Json, where: str = "text_config") -> dict[str, Any]:
    """Of a Qwen2, Qwen3 or Llama decoder's config, what an `AudioModelConfig` takes.

    The tokens that end an answer are the generation config's, if it has any.

    Raises:
        ValueError: for a feature that no checkpoint of ours uses, or sizes that do not fit.
    """
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
    d_head = getattr(text, "head_dim", None)
    if text.num_attention_heads > text.hidden_size and not d_head:
        raise ValueError(
            f"{where}: num_attention_heads {text.num_attention_heads} is more than "
            f"hidden_size {text.hidden_size}"
        )
    if text.num_attention_heads % text.num_key_value_heads:
        raise ValueError(
            f"{where}: num_key_value_heads {text.num_key_value_heads} does not divide "
            f"num_attention_heads {text.num_attention_heads}"
        )
    return {
        "d_model": text.hidden_size,
        "d_head": d_head or text.hidden_size // text.num_attention_heads,
        "n_heads": text.num_attention_heads,
        "n_key_value_heads": text.num_key_value_heads,
        "n_layers": text.num_hidden_layers,
        "n_ctx": text.max_position_embeddings,
        "d_mlp": text.intermediate_size,
        "d_vocab": text.vocab_size,
        "act_fn": text.hidden_act,
        "attn_bias": _attn_bias(text),
        "mlp_bias": getattr(text, "mlp_bias", False),
        "eps": text.rms_norm_eps,
        "rotary_base": rope.get("rope_theta", 10000.0),
        "eos_token_ids": as_list(generation.get("eos_token_id")) or as_list(text.eos_token_id),
        "pad_token_id": text.pad_token_id,
    }


def _attn_bias(text: Any) -> str:
    """Qwen2's decoder has biases on queries, keys and values; others say whether they have all or none."""
    if not hasattr(text, "attention_bias"):
        return "qkv"
    return "qkvo" if text.attention_bias else ""


def whisper_sizes(audio: Any, where: str = "audio_config") -> dict[str, Any]:
    """Of a Whisper encoder's config, under either of its two sets of names, what an
    `AudioEncoderConfig` takes.

    Raises:
        ValueError: for heads that do not divide the width.
    """
    if audio.d_model % audio.encoder_attention_heads:
        raise ValueError(
            f"{where}: encoder_attention_heads {audio.encoder_attention_heads} does not "
            f"divide d_model {audio.d_model}"
        )
    if getattr(audio, "scale_embedding", False):
        raise ValueError(f"{where}: scale_embedding is not supported: no known checkpoint has it")
    return {
        "d_model": audio.d_model,
        "d_head": audio.d_model // audio.encoder_attention_heads,
        "n_heads": audio.encoder_attention_heads,
        "n_layers": audio.encoder_layers,
        "n_ctx": audio.max_source_positions,
        "d_mlp": audio.encoder_ffn_dim,
        "act_fn": audio.activation_function,
        "n_mels": audio.num_mel_bins,
    }


def decoder_names(decoder: str = "language_model.model", head: str = "language_model") -> Names:
    """Of a decoder under this prefix, with its `lm_head` under that one (or at the root: "")."""
    head = f"{head}.lm_head" if head else "lm_head"
    return {
        f"{decoder}.embed_tokens.weight": "embed.W_E",
        f"{decoder}.norm.weight": "ln_final.w",
        f"{head}.weight": "unembed.lm_head.weight",
        f"{decoder}.layers.*.input_layernorm.weight": "blocks.*.ln1.w",
        f"{decoder}.layers.*.post_attention_layernorm.weight": "blocks.*.ln2.w",
        f"{decoder}.layers.*.self_attn.*": "blocks.*.attn.*",
        f"{decoder}.layers.*.mlp.*": "blocks.*.mlp.*",
    }


def whisper_names(final_norm: str = "layer_norm", tower: str = "audio_tower") -> Names:
    """Of a Whisper encoder of this name, whose last LayerNorm has that one."""
    ours = "audio_encoder"
    return {
        f"{tower}.conv1.*": f"{ours}.conv1.*",
        f"{tower}.conv2.*": f"{ours}.conv2.*",
        f"{tower}.embed_positions.weight": f"{ours}.W_pos",
        f"{tower}.{final_norm}.weight": f"{ours}.ln_final.w",
        f"{tower}.{final_norm}.bias": f"{ours}.ln_final.b",
        f"{tower}.layers.*.self_attn_layer_norm.weight": f"{ours}.blocks.*.ln1.w",
        f"{tower}.layers.*.self_attn_layer_norm.bias": f"{ours}.blocks.*.ln1.b",
        f"{tower}.layers.*.final_layer_norm.weight": f"{ours}.blocks.*.ln2.w",
        f"{tower}.layers.*.final_layer_norm.bias": f"{ours}.blocks.*.ln2.b",
        f"{tower}.layers.*.self_attn.out_proj.*": f"{ours}.blocks.*.attn.o_proj.*",
        f"{tower}.layers.*.self_attn.*": f"{ours}.blocks.*.attn.*",
        f"{tower}.layers.*.fc1.*": f"{ours}.blocks.*.mlp.up_proj.*",
        f"{tower}.layers.*.fc2.*": f"{ours}.blocks.*.mlp.down_proj.*",
    }


def two_linears(projector: str = "multi_modal_projector") -> Names:
    """Of a projector of two linear layers under this name."""
    return {
        f"{projector}.linear_1.*": "audio_projector.hidden.*",
        f"{projector}.linear_2.*": "audio_projector.linear.*",
    }


def in_transformers(final_norm: str = "layer_norm", **others: Any) -> InTransformers:
    """Where a model of `audio_tower`, projector and `language_model` has its modules."""
    usual = {
        "decoder": "model.language_model",
        "encoder_blocks": "model.audio_tower.layers",
        "encoder_out": f"model.audio_tower.{final_norm}",
        "projector": "model.multi_modal_projector",
    }
    return InTransformers(**usual | others)


def decoder_fields(*model_types: str) -> dict[str, Check]:
    """What the fields of `text_config` may be."""
    checks = {
        "model_type": fields.one_of(*model_types),
        "hidden_size": fields.WIDTH,
        "intermediate_size": fields.WIDTH,
        "num_hidden_layers": fields.LAYERS,
        "num_attention_heads": fields.HEADS,
        "num_key_value_heads": fields.or_null(fields.HEADS),
        "head_dim": fields.or_null(fields.WIDTH),
        "vocab_size": fields.VOCABULARY,
        "max_position_embeddings": fields.POSITIONS,
        "hidden_act": fields.ACTIVATION,
        "rms_norm_eps": fields.EPS,
        "rope_theta": fields.or_null(fields.ROTARY_BASE),
        "rope_scaling": fields.or_null(fields.OBJECT),
        "rope_parameters": fields.or_null(fields.OBJECT),
        "rope_parameters.rope_theta": fields.ROTARY_BASE,
        "use_sliding_window": fields.FLAG,
        "tie_word_embeddings": fields.FLAG,
        "eos_token_id": fields.or_null(fields.or_several(fields.TOKEN)),
        "pad_token_id": fields.or_null(fields.TOKEN),
        "dtype": fields.or_null(fields.torch_dtype),
        "torch_dtype": fields.or_null(fields.torch_dtype),
    }
    return {"text_config": fields.or_null(fields.OBJECT)} | under("text_config", checks)


def whisper_fields(*model_types: str) -> dict[str, Check]:
    """What the fields of `audio_config` may be, under either of the two sets of names."""
    checks = {
        "model_type": fields.or_null(fields.one_of(*model_types)),
        "d_model": fields.WIDTH,
        "hidden_size": fields.WIDTH,
        "encoder_ffn_dim": fields.WIDTH,
        "intermediate_size": fields.WIDTH,
        "encoder_layers": fields.LAYERS,
        "num_hidden_layers": fields.LAYERS,
        "encoder_attention_heads": fields.HEADS,
        "num_attention_heads": fields.HEADS,
        "max_source_positions": fields.POSITIONS,
        "num_mel_bins": fields.WIDTH,
        "activation_function": fields.ACTIVATION,
    }
    return {"audio_config": fields.or_null(fields.OBJECT)} | under("audio_config", checks)


def under(prefix: str, checks: Mapping[str, Check]) -> dict[str, Check]:
    """The checks for fields that stand inside an object of this name."""
    return {f"{prefix}.{name}": check for name, check in checks.items()}


def read_processor(folder: Path, cfg: AudioModelConfig) -> tuple[Any, Any]:
    """Processor and tokenizer, or None for what has no files here."""
    tokenizer = processor = None
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if any((folder / name).is_file() for name in PROCESSOR_FILES):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            tokenizer = processor.tokenizer
    return processor, tokenizer
