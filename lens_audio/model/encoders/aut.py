"""AuT, the encoder of Qwen3-ASR and Qwen3-Omni: three convolutions in time and frequency."""

from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.model.encoders.whisper import AudioEncoder, chunked
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.linear import Linear


class AuTEncoder(AudioEncoder):
    """A Whisper encoder behind three Conv2d of stride 2 and a linear layer, chunk by chunk."""

    def make_convolutions(self) -> None:
        """The convolutions and `conv_out`, from all channels and bins of a frame to its width."""
        cfg = self.cfg
        n_channels, n_bins = cfg.conv_channels, cfg.n_mels
        assert n_channels is not None
        for number in (1, 2, 3):
            conv = nn.Conv2d(1 if number == 1 else n_channels, n_channels, 3, stride=2, padding=1)
            self.add_module(f"conv{number}", conv)
            # [audio, mel_frame of half as many as before, channel, half as many bins], after GELU
            self.add_module(f"hook_conv{number}", HookPoint())
            n_bins = (n_bins + 1) // 2
        self.conv_out = Linear(n_channels * n_bins, cfg.d_model, bias=False)
        self.hook_conv_out = HookPoint()  # [audio, frame, d_model]

    def _convolved(
        self,
        mel: Float[Tensor, "audio n_mels mel_frame"],
        chunk: int,
        mel_lengths: Int[Tensor, " audio"],
        n_read: int,
    ) -> Float[Tensor, "audio frame d_model"]:
        n_clips = len(mel)
        x = chunked(mel, chunk)[:, None]
        for number in (1, 2, 3):
            x = F.gelu(self.get_submodule(f"conv{number}")(x))
            hook: Any = self.get_submodule(f"hook_conv{number}")
            if not hook.has_hooks():
                continue  # the copies below take a fifth of the encoder's time
            x = hook(rearrange(x, "(a n) channel bin t -> a (n t) channel bin", a=n_clips))
            x = rearrange(
                x, "a (n t) channel bin -> (a n) channel bin t", n=-(-mel.shape[2] // chunk)
            )
        x = self.conv_out(rearrange(x, "chunk channel bin t -> chunk t (channel bin)"))
        x = rearrange(x, "(a n) t d_model -> a (n t) d_model", a=n_clips)
        return self.hook_conv_out(x[:, : self.cfg.n_frames(mel.shape[2])])
