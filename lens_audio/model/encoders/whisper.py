"""The audio encoder: mel spectrogram -> convolutions -> transformer blocks -> pool -> LayerNorm."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.config import AudioEncoderConfig
from lens_audio.model.attention_context import AttentionContext
from lens_audio.model.block import TransformerBlock
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.hooked_root import HookedModule
from lens_audio.model.norm import LayerNorm


class AudioEncoder(HookedModule):
    """A Whisper encoder with a pool before the last LayerNorm.

    Its blocks carry the decoder's hook points, without rotary embedding or gate. With
    `cfg.chunk_frames` the convolutions and the positions start anew in each chunk of a clip, whose
    activations stand one behind the other.
    """

    cfg: AudioEncoderConfig

    def __init__(self, cfg: AudioEncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.make_convolutions()
        if cfg.positional_embedding_type == "standard":
            self.W_pos = nn.Parameter(torch.zeros(cfg.n_ctx, cfg.d_model))
        self.blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.n_layers))
        self.ln_final = LayerNorm(cfg)

        self.hook_mel = HookPoint()  # [audio, n_mels, mel_frame]
        if cfg.positional_embedding_type != "rotary":
            self.hook_pos_embed = HookPoint()  # [audio, frame, d_model]
        self.hook_embed = HookPoint()  # [audio, frame, d_model]
        self.hook_pooled = HookPoint()  # [audio, token, d_model]
        self.hook_out = HookPoint()  # [audio, token, d_model]
        self.setup()

    def make_convolutions(self) -> None:
        """Whisper's two."""
        cfg = self.cfg
        self.conv1 = nn.Conv1d(cfg.n_mels, cfg.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(
            cfg.d_model, cfg.d_model, kernel_size=3, stride=cfg.conv_stride, padding=1
        )
        self.hook_conv1 = HookPoint()  # [audio, mel_frame, d_model], after GELU
        self.hook_conv2 = HookPoint()  # [audio, frame, d_model], after GELU

    def forward(
        self,
        mel: Float[Tensor, "audio n_mels mel_frame"],
        mel_lengths: Int[Tensor, " audio"],
        keep_padding: bool = False,
    ) -> Float[Tensor, "audio token d_model"]:
        """Encode clips.

        Args:
            mel: log-mel spectrograms, padded to one length; 10 ms a frame.
            mel_lengths: how many frames of each clip are sound; the rest is masked as padding.
            keep_padding: compute the padding beyond the longest clip even where no hook looks at it.

        Returns:
            The tokens of the padded spectrogram; only the first `cfg.n_tokens` of a clip are its own.
        """
        self._check(mel, mel_lengths)
        weight = self.conv1.weight
        mel, mel_lengths = mel.to(weight), mel_lengths.to(weight.device)
        n_read = self._n_read(int(mel_lengths.max()))
        watched = keep_padding or any(hook.has_hooks() for hook in self.hook_points())
        if self.cfg.masks_padding and not watched:
            mel = mel[:, :, :n_read]
        return self.from_layer(0, self._embed(mel, mel_lengths, n_read), mel_lengths)

    def _n_read(self, longest: int) -> int:
        """How many mel frames reach the tokens of a clip of so many."""
        # The last frame of sound reads mel frames of padding through the convolutions.
        sees_zeros = self.cfg.cuts_mel or self.cfg.zeros_after_clip
        stride = self.cfg.conv_stride
        n_read = stride * (-(-longest // stride) + (0 if sees_zeros else 1))
        chunk = self.cfg.chunk_frames
        return n_read if chunk is None or n_read <= chunk else chunk * -(-longest // chunk)

    def from_layer(
        self,
        layer: int,
        resid_pre: Float[Tensor, "audio frame d_model"],
        mel_lengths: Int[Tensor, " audio"],
    ) -> Float[Tensor, "audio token d_model"]:
        """The rest of the encoder, from the residual stream before `layer` on.

        With `layer = n_layers` every block is skipped: only the pool and the last LayerNorm are left.
        """
        x = resid_pre
        frames = torch.arange(x.shape[1], device=x.device)
        key_mask = None
        if self.cfg.masks_padding:
            key_mask = frames < self.cfg.n_frames(mel_lengths.to(x.device))[:, None]
        context = AttentionContext.of(self.cfg, x, key_mask, window=self.cfg.window)
        for block in self.blocks[layer:]:
            x = block(x, context)
        if self.cfg.pool > 1:
            x = F.avg_pool1d(x.transpose(1, 2), self.cfg.pool).transpose(1, 2)
        return self.hook_out(self.ln_final(self.hook_pooled(x)))

    def _embed(
        self,
        mel: Float[Tensor, "audio n_mels mel_frame"],
        mel_lengths: Int[Tensor, " audio"],
        n_read: int,
    ) -> Float[Tensor, "audio frame d_model"]:
        n_mel = mel.shape[2]
        chunk = min(self.cfg.chunk_frames or n_mel, n_mel)
        mel = self._behind_clips(mel, mel_lengths, n_read)
        if self.hook_mel.has_hooks():
            mel = mel.clone()  # hooks and caches must not have the caller's
        x = self._convolved(self.hook_mel(mel), chunk, mel_lengths, n_read)
        if self.cfg.positional_embedding_type == "rotary":
            return self.hook_embed(x)
        per_chunk, n_frames = self.cfg.halved(chunk), x.shape[1]
        positions = self._positions(per_chunk)
        pos_embed = positions.repeat(len(mel), -(-n_frames // per_chunk), 1)[:, :n_frames]
        return self.hook_embed((x + self.hook_pos_embed(pos_embed)).to(x.dtype))

    def _convolved(
        self,
        mel: Float[Tensor, "audio n_mels mel_frame"],
        chunk: int,
        mel_lengths: Int[Tensor, " audio"],
        n_read: int,
    ) -> Float[Tensor, "audio frame d_model"]:
        """The convolutions of each chunk, joined again."""
        n_clips, n_mel = len(mel), mel.shape[2]
        x = joined(F.gelu(self.conv1(chunked(mel, chunk))), n_clips, n_mel)
        x = self.hook_conv1(x.transpose(1, 2)).transpose(1, 2)
        x = F.gelu(self.conv2(chunked(self._behind_clips(x, mel_lengths, n_read), chunk)))
        # Contiguous, or every later sum and norm would walk the convolution's layout.
        x = joined(x, n_clips, self.cfg.n_frames(n_mel)).transpose(1, 2).contiguous()
        return self.hook_conv2(x)

    def _behind_clips(
        self,
        x: Float[Tensor, "audio channel mel_frame"],
        mel_lengths: Int[Tensor, " audio"],
        n_read: int,
    ) -> Float[Tensor, "audio channel mel_frame"]:
        """What a convolution reads: zeros behind the clips, where the config says so."""
        if self.cfg.zeros_after_clip:
            frames = torch.arange(x.shape[2], device=x.device)
            return x.masked_fill(frames >= mel_lengths[:, None, None], 0)
        return zero_from(x, n_read) if self.cfg.cuts_mel else x

    def _positions(self, n_frames: int) -> Float[Tensor, "frame d_model"]:
        if self.cfg.positional_embedding_type == "sinusoidal":
            weight = self.conv1.weight
            return sinusoids(n_frames, self.cfg.d_model, weight.device).to(weight.dtype)
        return self.W_pos[:n_frames]

    def _check(self, mel: Tensor, mel_lengths: Tensor) -> None:
        if mel.shape[1] != self.cfg.n_mels:
            raise ValueError(
                f"the mel spectrogram has {mel.shape[1]} bins; this encoder reads {self.cfg.n_mels}"
            )
        n_frames, cuts_mel = self.cfg.max_mel_frames, self.cfg.cuts_mel
        if n_frames and (mel.shape[2] > n_frames or (mel.shape[2] < n_frames and not cuts_mel)):
            raise ValueError(
                f"the mel spectrogram has {mel.shape[2]} frames; this encoder reads "
                f"{'at most' if cuts_mel else 'exactly'} {n_frames} ({n_frames / 100:g} s). Pad a "
                "shorter clip as the processor does, and give its length in mel_lengths"
            )
        if mel_lengths.shape != mel.shape[:1]:
            raise ValueError(f"{len(mel)} clips but {len(mel_lengths)} mel lengths")
        if bool((mel_lengths < 1).any() | (mel_lengths > mel.shape[2]).any()):
            raise ValueError(
                f"mel lengths {mel_lengths.tolist()} must lie between 1 and {mel.shape[2]} frames"
            )
        stride = self.cfg.conv_stride
        n_needed = stride * self.cfg.n_frames(int(mel_lengths.max()))
        if cuts_mel and mel.shape[2] < n_needed:
            raise ValueError(
                f"the mel spectrogram ends at frame {mel.shape[2]}, which is no multiple of "
                f"{stride}, the convolutions' stride. Pad it to {n_needed} frames, as the processor "
                "does"
            )


def sinusoids(
    n_frames: int, width: int, device: torch.device | None = None
) -> Float[Tensor, "frame width"]:
    """Whisper's positions (Radford et al., arXiv 2212.04356): sines, then cosines, of wavelengths
    from 2 pi to 10,000 times that, in float32."""
    step = math.log(10000) / (width // 2 - 1)
    rates = torch.exp(-step * torch.arange(width // 2, device=device).float())
    angles = torch.arange(n_frames, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def chunked(x: Float[Tensor, "audio channel mel_frame"], chunk: int) -> Tensor:
    """[audio * chunk, channel, mel_frame]: each chunk as a clip of its own."""
    x = F.pad(x, (0, -x.shape[2] % chunk))
    return rearrange(x, "audio channel (n frame) -> (audio n) channel frame", frame=chunk)


def joined(x: Float[Tensor, "chunk channel frame"], n_clips: int, n_frames: int) -> Tensor:
    """[audio, channel, frame]: the chunks of each clip in one line again, cut to so many frames."""
    x = rearrange(x, "(audio n) channel frame -> audio channel (n frame)", audio=n_clips)
    return x[:, :, :n_frames]


def zero_from(x: Float[Tensor, "audio channel frame"], end: int) -> Tensor:
    """Zeros in every frame from `end` on: what a convolution sees where the frames end."""
    return F.pad(x[:, :, :end], (0, max(0, x.shape[2] - end)))
