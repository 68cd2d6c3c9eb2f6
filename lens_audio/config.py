"""Sizes of the decoder and the audio encoder, read from a checkpoint's config.json."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformer_lens.config import TransformerLensConfig

Count = TypeVar("Count", int, Tensor)


def n_encoder_frames(mel_frames: Count) -> Count:
    """Frames of the encoder's blocks for so many mel frames: the second convolution has stride 2."""
    return (mel_frames - 1) // 2 + 1


def n_audio_tokens(mel_frames: Count) -> Count:
    """Audio tokens of so many valid mel frames: a stride of two, then a pool of two (3000 -> 750).

    Takes an int or an integer tensor of any shape and returns the same kind.
    """
    return (n_encoder_frames(mel_frames) - 2) // 2 + 1


@dataclass(kw_only=True)
class BlockConfig(TransformerLensConfig):
    """A TransformerLens config plus what tells one kind of transformer block from another.

    `attn_bias` names the attention projections that have a bias ("qkv" in the decoder, "qvo" in
    the audio encoder). The `use_*` flags are TransformerLens's: set them with the model's setters.
    """

    dtype: torch.dtype = torch.float32
    attention_dir: str = "causal"
    attn_bias: str = ""
    mlp_bias: bool = False
    rotary_base: float = 10000.0
    seq_length: int | None = None  # beyond it the next two act, as in Qwen's first generation
    use_dynamic_ntk: bool = False
    use_logn_attn: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_key_value_heads == self.n_heads:  # TransformerLens: None means "not grouped"
            self.n_key_value_heads = None
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_heads {self.n_heads} is not a multiple of n_key_value_heads {self.kv_heads}"
            )
        if self.positional_embedding_type == "rotary" and self.d_head % 2:
            raise ValueError(f"rotary embedding needs an even d_head, not {self.d_head}")
        if (self.use_dynamic_ntk or self.use_logn_attn) and (self.seq_length or 0) < 2:
            raise ValueError(
                f"use_dynamic_ntk and use_logn_attn act beyond seq_length, which cannot be "
                f"{self.seq_length}"
            )
        if self.use_dynamic_ntk and self.d_head < 4:
            raise ValueError(f"dynamic NTK scaling needs a d_head of at least 4, not {self.d_head}")

    @property
    def kv_heads(self) -> int:
        """Heads of `hook_k` and `hook_v`."""
        return self.n_key_value_heads or self.n_heads


@dataclass(kw_only=True)
class DecoderConfig(BlockConfig):
    """A Qwen decoder: RMSNorm, rotary positions, gated MLP, optionally grouped keys."""

    model_name: str = "custom"
    normalization_type: str | None = "RMS"
    uses_rms_norm: bool = True
    final_rms: bool = True
    positional_embedding_type: str = "rotary"
    gated_mlp: bool = True
    act_fn: str = "silu"
    attn_bias: str = "qkv"
    default_prepend_bos: bool = False  # the Qwen tokenizers have no BOS token
    tie_word_embeddings: bool = False

    @property
    def d_vocab_out(self) -> int:
        return self.d_vocab


@dataclass(kw_only=True)
class AudioEncoderConfig(BlockConfig):
    """A Whisper encoder with an average pool of two; `n_ctx` counts frames after the convolutions.

    With `cuts_mel` a batch of spectrograms ends with its longest clip, and the convolutions see
    zeros after it; otherwise they see the silence that every clip is padded with.
    """

    n_mels: int = 128
    cuts_mel: bool = False
    attention_dir: str = "bidirectional"
    attn_bias: str = "qvo"
    mlp_bias: bool = True
    act_fn: str = "gelu"

    @property
    def max_mel_frames(self) -> int:
        """Longest mel spectrogram, in frames (the second convolution has stride 2)."""
        return 2 * self.n_ctx


@dataclass(kw_only=True)
class AudioModelConfig(DecoderConfig):
    """The decoder's sizes, with the audio encoder's under `audio`.

    `audio_edge_ids` are the tokens before and after a clip where the checkpoint has learned
    embeddings of its own for them, which are then written over the tokens' (Qwen-Audio).
    """

    audio: AudioEncoderConfig
    audio_token_id: int
    audio_edge_ids: tuple[int, int] | None = None
    eos_token_ids: list[int] = field(default_factory=list)
    pad_token_id: int | None = None

    @classmethod
    def from_hf(
        cls, config: Any, *, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> "AudioModelConfig":
        """From a transformers `Qwen2AudioConfig`.

        Raises:
            ValueError: for a feature of Qwen2 that no Qwen2-Audio checkpoint uses.
        """
        text, audio = config.text_config, config.audio_config
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
        shared: dict[str, Any] = {"device": device, "dtype": dtype}
        return cls(
            model_name=getattr(config, "name_or_path", "") or "qwen2_audio",
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
            tie_word_embeddings=getattr(config, "tie_word_embeddings", False)
            or text.tie_word_embeddings,
            audio_token_id=config.audio_token_id,
            eos_token_ids=as_list(text.eos_token_id),
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
                **shared,
            ),
            **shared,
        )


def as_list(token_ids: int | list[int] | None) -> list[int]:
    """Token ids as a checkpoint's files give them: none, one or several."""
    if token_ids is None:
        return []
    return [token_ids] if isinstance(token_ids, int) else list(token_ids)
