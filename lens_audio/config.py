"""Sizes of the decoder and the audio encoder, read from a checkpoint's config.json."""

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.config import TransformerLensConfig

Count = TypeVar("Count", int, Tensor)


@dataclass(kw_only=True)
class AudioTiming:
    """How a clip's mel frames become frames of the encoder's blocks and audio tokens, and when those
    are. Every prompt carries one; an `AudioEncoderConfig` is one, too.

    The defaults are those of both generations of Qwen-Audio: four mel frames of 10 ms a token.
    """

    conv_stride: int = (
        2  # mel frames to a frame of the blocks: the convolutions' strides, multiplied
    )
    pool: int = 2  # frames of the blocks that are averaged
    stack: int = 1  # pooled frames that stand side by side in one audio token
    chunk_frames: int | None = None  # mel frames after which the convolutions start anew
    mel_per_window: int | None = None  # a longer clip is several spectrograms of so many frames
    max_windows: int | None = 1  # spectrograms that a clip may be; None: without limit

    @property
    def timing(self) -> "AudioTiming":
        """These fields alone, as a prompt carries them to wherever it goes."""
        return AudioTiming(**{f.name: getattr(self, f.name) for f in fields(AudioTiming)})

    @property
    def frames_per_token(self) -> int:
        """Frames of the blocks to an audio token."""
        return self.pool * self.stack

    @property
    def mel_frames_per_token(self) -> int:
        """Mel frames from one audio token to the next (in chunks that they fill: at most)."""
        return self.conv_stride * self.frames_per_token

    @property
    def min_mel_frames(self) -> int:
        """Mel frames of the shortest clip that makes an audio token."""
        whole, rest = 0, self.frames_per_token
        if self.chunk_frames is not None:
            per_chunk = self.halved(self.chunk_frames)
            whole, rest = divmod(rest - 1, per_chunk)
            whole, rest = whole * self.chunk_frames, rest + 1
        return whole + (rest - 1) * self.conv_stride + 1

    def halved(self, mel_frames: Count) -> Count:
        """What the convolutions make of so many mel frames: every stride rounds up."""
        return (mel_frames - 1) // self.conv_stride + 1

    def n_frames(self, mel_frames: Count) -> Count:
        """Frames of the encoder's blocks for so many mel frames, chunk by chunk.

        Takes an int or an integer tensor of any shape and returns the same kind, as `n_tokens` does.
        """
        if self.chunk_frames is None:
            return self.halved(mel_frames)
        whole, rest = mel_frames // self.chunk_frames, mel_frames % self.chunk_frames
        return whole * self.halved(self.chunk_frames) + self.halved(rest)

    def n_tokens(self, mel_frames: Count) -> Count:
        """Audio tokens of a spectrogram of so many mel frames; what does not fill one is left out."""
        return self.n_frames(mel_frames) // self.frames_per_token

    def frames_of(self, tokens: Int[Tensor, " token"]) -> Int[Tensor, " frame"]:
        """The frames of the blocks that these audio tokens of a spectrogram are made of, in order."""
        within = torch.arange(self.frames_per_token, device=tokens.device)
        return (self.frames_per_token * tokens[:, None] + within).flatten()

    def tokens_of(self, frames: Int[Tensor, " frame"]) -> Int[Tensor, " frame"]:
        """The audio token that each of these frames of the blocks is part of.

        A clip's last frames may be left over: the token they are given is then one more than there
        are.
        """
        return frames // self.frames_per_token

    def frame_starts(
        self, n_frames: int, hop_length: int = 160, sampling_rate: int = 16000
    ) -> Float[Tensor, " frame"]:
        """When each of so many frames of the blocks begins, in seconds (float64) from the
        spectrogram's start.

        `hop_length` is the samples between mel frames.
        """
        frames = torch.arange(n_frames, dtype=torch.float64)
        if self.chunk_frames is None:
            return frames * (self.conv_stride * hop_length) / sampling_rate
        per_chunk = self.halved(self.chunk_frames)
        mel = frames // per_chunk * self.chunk_frames + frames % per_chunk * self.conv_stride
        return mel * hop_length / sampling_rate

    def seconds_per_token(self, hop_length: int = 160, sampling_rate: int = 16000) -> float:
        """Seconds from one audio token to the next (in chunks that they fill: at most)."""
        return self.mel_frames_per_token * hop_length / sampling_rate

    def token_spans(
        self,
        n_tokens: int,
        seconds: float | int,
        hop_length: int = 160,
        sampling_rate: int = 16000,
    ) -> Float[Tensor, "token 2"]:
        """Start and end in seconds (float64) of each of a spectrogram's `n_tokens` audio tokens.

        The spans are contiguous, begin at 0 and end at `seconds`, the clip's own length: the last
        token takes the mel frames left over, or lacks them.
        """
        rates = hop_length, sampling_rate
        edges = self.frame_starts(n_tokens * self.frames_per_token + 1, *rates)
        edges = edges[:: self.frames_per_token].clone()
        edges[-1] = seconds
        return torch.stack([edges[:-1], edges[1:]], dim=1)

    def windows(
        self,
        spans: Float[Tensor, "token 2"],
        seconds: float | int,
        hop_length: int = 160,
        sampling_rate: int = 16000,
    ) -> Int[Tensor, " token"]:
        """Which of the consecutive windows of so many seconds, counted from 0, the middle of each
        audio token lies in. `spans` are of `token_spans`.

        Raises:
            ValueError: for windows shorter than an audio token, or without end.
        """
        token = self.seconds_per_token(hop_length, sampling_rate)
        if not token - 1e-9 <= seconds < float("inf"):
            raise ValueError(
                f"A window of {seconds} s is shorter than an audio token of {token:g} s, or has no "
                "end: give a longer one, in seconds."
            )
        return (spans.mean(1) / seconds + 1e-9).floor().long()


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
    rotary_dim: int | None = None  # of each head, its first dimensions; None: all
    use_qk_norm: bool = False  # RMSNorm of each head's query and key, before they are rotated
    seq_length: int | None = None  # beyond it the next two act, as in Qwen's first generation
    use_dynamic_ntk: bool = False
    use_logn_attn: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False
    ungroup_grouped_query_attention: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_key_value_heads == self.n_heads:  # TransformerLens: None means "not grouped"
            self.n_key_value_heads = None
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_heads {self.n_heads} is not a multiple of n_key_value_heads {self.kv_heads}"
            )
        rotated = self.d_head if self.rotary_dim is None else self.rotary_dim
        if self.positional_embedding_type == "rotary" and (rotated % 2 or rotated > self.d_head):
            raise ValueError(
                f"rotary embedding needs an even number of dimensions of the {self.d_head} of a "
                f"head, not {rotated}"
            )
        if (self.use_dynamic_ntk or self.use_logn_attn) and (self.seq_length or 0) < 2:
            raise ValueError(
                f"use_dynamic_ntk and use_logn_attn act beyond seq_length, which cannot be "
                f"{self.seq_length}"
            )
        if self.use_dynamic_ntk and self.d_head < 4:
            raise ValueError(f"dynamic NTK scaling needs a d_head of at least 4, not {self.d_head}")

    @property
    def kv_heads(self) -> int:
        """How many key and value heads are stored: those of `hook_k` and `hook_v`, unless ungrouped."""
        return self.n_key_value_heads or self.n_heads

    @property
    def attn_scale(self) -> float:
        """What attention scores are divided by: the root of d_head."""
        return self.d_head**0.5

    @property
    def n_params(self) -> int:
        """Weights of the attention and MLP matrices, as HookedTransformerConfig counts them: each
        query head with keys and values of its own, no embeddings, biases or norms."""
        attention = 4 * self.d_model * self.d_head * self.n_heads
        mlp = self.d_model * (self.d_mlp or 0) * (3 if self.gated_mlp else 2)
        return self.n_layers * (attention + mlp)


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
    tokenizer_name: str | None = None

    @property
    def d_vocab_out(self) -> int:
        """TransformerLens's name for how many tokens the logits are of: `d_vocab`."""
        return self.d_vocab


@dataclass(kw_only=True)
class AudioEncoderConfig(BlockConfig, AudioTiming):
    """A Whisper encoder with an average pool; `n_ctx` counts frames after the convolutions.

    With `conv_channels` the convolutions are three in time and frequency, of stride 2 each, and a
    linear layer (AuT); else Whisper's two in time, of strides 1 and `conv_stride`.

    What the convolutions see behind a clip: the silence that its spectrogram is padded with; with
    `cuts_mel` zeros from where the longest clip of the batch ends; with `zeros_after_clip` zeros from
    each clip's own end, and zeros again before the second convolution.

    `positional_embedding_type` is "standard" (stored, in float32 with `float32_positions`),
    "sinusoidal" (computed, in each chunk the same) or "rotary". Attention stays inside
    `window_frames` mel frames, if that is given, and out of the padding unless `masks_padding` is
    False.
    """

    n_mels: int = 128
    conv_channels: int | None = None
    cuts_mel: bool = False
    zeros_after_clip: bool = False
    window_frames: int | None = None
    masks_padding: bool = True
    float32_positions: bool = False
    attention_dir: str = "bidirectional"
    attn_bias: str = "qvo"
    mlp_bias: bool = True
    act_fn: str = "gelu"

    @property
    def max_mel_frames(self) -> int | None:
        """Longest mel spectrogram, in frames; None where it may be of any length."""
        return self.conv_stride * self.n_ctx if self.chunk_frames is None else None

    @property
    def window(self) -> int | None:
        """Frames of the blocks inside which attention stays; None: all of a spectrogram."""
        return None if self.window_frames is None else self.n_frames(self.window_frames)


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """From the encoder's width to the decoder's: one linear layer, or two with an activation between."""

    d_hidden: int | None = None  # None: one linear layer
    act_fn: str = "gelu"
    bias: bool = True
    time_rotary_base: float | None = (
        None  # the encoder's outputs are rotated by their time, if given
    )
    time_rotary_dim: int = 0  # for each of the two axes, window and place in it
    seconds_per_frame: float = 0.04  # of the encoder's outputs, for that rotation


@dataclass(frozen=True, kw_only=True)
class PromptParts:
    """What a family's processor calls the parts of a prompt.

    The tokens themselves are a checkpoint's own: here are the attributes of its processor that hold
    them, and the argument in which a model is given the mask of mel frames. None is what it has not.
    """

    placeholder: str = "audio_token"  # stands for a clip in a text
    opening: str | None = "audio_bos_token"  # before a clip
    closing: str | None = "audio_eos_token"  # behind it
    mel_mask: str | None = "feature_attention_mask"
    max_clips: int | None = None  # clips that a text may have; None: any number

    def clip(self, processor: Any) -> tuple[str, str, str]:
        """The texts before, for and behind a clip; empty for a part that there is not."""
        names = (self.opening, self.placeholder, self.closing)
        before, place, behind = ("" if name is None else getattr(processor, name) for name in names)
        return before, place, behind


@dataclass(kw_only=True)
class AudioModelConfig(DecoderConfig):
    """The decoder's sizes, with the audio encoder's under `audio`, the projector's under `projector`.

    `audio_edge_ids` are the tokens before and after a clip where the checkpoint has learned
    embeddings of its own for them, which are then written over the tokens' (Qwen-Audio).
    """

    audio: AudioEncoderConfig
    projector: ProjectorConfig = ProjectorConfig()
    audio_token_id: int
    audio_edge_ids: tuple[int, int] | None = None
    prompt_parts: PromptParts = PromptParts()
    eos_token_ids: list[int] = field(default_factory=list)
    pad_token_id: int | None = None


def as_list(token_ids: int | list[int] | None) -> list[int]:
    """Token ids as a checkpoint's files give them: none, one or several."""
    if token_ids is None:
        return []
    return [token_ids] if isinstance(token_ids, int) else list(token_ids)
