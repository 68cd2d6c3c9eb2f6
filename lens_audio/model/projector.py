"""The projector: from the audio encoder's width to the decoder's."""

import math

import torch
import torch.nn as nn
from jaxtyping import Float, Int, Real
from torch import Tensor
from transformers.activations import ACT2FN

from lens_audio.config import AudioModelConfig, AudioTiming, ProjectorConfig
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.linear import Linear


class AudioProjector(nn.Module):
    """linear(x), or with `cfg.projector.d_hidden` linear(act(hidden(x))).

    x is `cfg.audio.stack` of the encoder's outputs side by side; what does not fill a token is left
    out. With `cfg.projector.time_rotary_base` the encoder's outputs are first rotated by their time.
    Only a projector with a hidden layer has `hook_pre`, before its activation, and `hook_post`.
    """

    def __init__(self, cfg: AudioModelConfig) -> None:
        super().__init__()
        self.cfg, self.timing, self.stack = cfg.projector, cfg.audio.timing, cfg.audio.stack
        width, d_hidden = self.stack * cfg.audio.d_model, cfg.projector.d_hidden
        self.hook_in = HookPoint()  # [audio, token, stack * d_audio]
        if d_hidden is not None:
            self.hidden = Linear(width, d_hidden, bias=cfg.projector.bias)
            self.act_fn = ACT2FN[cfg.projector.act_fn]
            self.hook_pre = HookPoint()  # [audio, token, d_hidden]
            self.hook_post = HookPoint()  # [audio, token, d_hidden]
        self.has_hidden = d_hidden is not None
        self.linear = Linear(d_hidden or width, cfg.d_model, bias=cfg.projector.bias)
        self.hook_out = HookPoint()  # [audio, token, d_model]

    def forward(
        self,
        x: Float[Tensor, "audio frame d_audio"],
        windows: Int[Tensor, " audio"] | None = None,
    ) -> Float[Tensor, "audio token d_model"]:
        """Of the encoder's outputs; `windows` numbers those of one clip (default: each the first)."""
        if self.cfg.time_rotary_base is not None:
            numbers = torch.zeros(len(x)) if windows is None else windows
            x = rotated_in_time(x, numbers.to(x.device), self.cfg, self.timing)
        n_tokens = x.shape[1] // self.stack
        x = x[:, : n_tokens * self.stack].reshape(len(x), n_tokens, self.stack * x.shape[2])
        x = self.hook_in(x)
        if self.has_hidden:
            x = self.hook_post(self.act_fn(self.hook_pre(self.hidden(x))))
        return self.hook_out(self.linear(x))

    def has_hooks(self) -> bool:
        """Whether a hook is set on any of its hook points."""
        points = (module for module in self.children() if isinstance(module, HookPoint))
        return any(point.has_hooks() for point in points)


def rotated_in_time(
    x: Float[Tensor, "audio frame d_audio"],
    windows: Real[Tensor, " audio"],
    cfg: ProjectorConfig,
    timing: AudioTiming,
) -> Float[Tensor, "audio frame d_audio"]:
    """Music Flamingo's time embedding: the first pairs of every output turned by the window's number,
    the next ones by the place in it, both scaled by -2 pi times the seconds into the clip.

    As transformers' `MusicFlamingoRotaryEmbedding`: angles in float32, the rotation in float64.
    """
    assert cfg.time_rotary_base is not None
    assert timing.mel_per_window is not None
    base, dim, step = cfg.time_rotary_base, cfg.time_rotary_dim, cfg.seconds_per_frame
    rates = base ** (-torch.arange(0, dim, 2, device=x.device).float() / dim)
    places = torch.arange(x.shape[1], device=x.device).float()
    per_window = timing.n_tokens(timing.mel_per_window)
    seconds = windows.float()[:, None] * per_window * step + places * step
    of_window = (windows.float() / base)[:, None, None] * rates
    of_place = (places / base * (2 * math.pi))[None, :, None] * rates
    angles = torch.cat(torch.broadcast_tensors(of_window, of_place), dim=-1)
    angles = (angles * (-seconds * 2 * math.pi)[..., None]).repeat_interleave(2, dim=-1)
    turned, rest = x.split([angles.shape[-1], x.shape[-1] - angles.shape[-1]], dim=-1)
    turned = turned.double()
    across = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
    turned = turned * angles.cos() + across * angles.sin()
    return torch.cat([turned.to(x.dtype), rest], dim=-1)
