"""The projector: from the audio encoder's width to the decoder's."""

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from transformers.activations import ACT2FN

from lens_audio.config import AudioModelConfig
from lens_audio.model.hook_point import HookPoint


class AudioProjector(nn.Module):
    """linear(x), or with `cfg.projector.d_hidden` linear(act(hidden(x))).

    x is `cfg.audio.stack` of the encoder's outputs side by side; what does not fill a token is left
    out. Only a projector with a hidden layer has `hook_pre`, before its activation, and `hook_post`.
    """

    def __init__(self, cfg: AudioModelConfig) -> None:
        super().__init__()
        self.stack = cfg.audio.stack
        width, d_hidden = self.stack * cfg.audio.d_model, cfg.projector.d_hidden
        self.hook_in = HookPoint()  # [audio, token, stack * d_audio]
        if d_hidden is not None:
            self.hidden = nn.Linear(width, d_hidden, bias=cfg.projector.bias)
            self.act_fn = ACT2FN[cfg.projector.act_fn]
            self.hook_pre = HookPoint()  # [audio, token, d_hidden]
            self.hook_post = HookPoint()  # [audio, token, d_hidden]
        self.has_hidden = d_hidden is not None
        self.linear = nn.Linear(d_hidden or width, cfg.d_model, bias=cfg.projector.bias)
        self.hook_out = HookPoint()  # [audio, token, d_model]

    def forward(
        self, x: Float[Tensor, "audio frame d_audio"]
    ) -> Float[Tensor, "audio token d_model"]:
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
