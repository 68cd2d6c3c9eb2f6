"""The projector: from the audio encoder's width to the decoder's."""

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from lens_audio.config import AudioModelConfig
from lens_audio.model.hook_point import HookPoint


class AudioProjector(nn.Module):
    """From the encoder's width to the decoder's."""

    def __init__(self, cfg: AudioModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(cfg.audio.d_model, cfg.d_model)
        self.hook_out = HookPoint()  # [audio, token, d_model]

    def forward(
        self, x: Float[Tensor, "audio token d_audio"]
    ) -> Float[Tensor, "audio token d_model"]:
        return self.hook_out(self.linear(x))
