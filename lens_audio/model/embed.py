"""Token embedding and unembedding."""

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.config import DecoderConfig
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.linear import Linear
from lens_audio.model.shown import ShownWeight, ShowsWeights, shown_bias, store


class Embed(nn.Module):
    """Rows of W_E."""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.randn(cfg.d_vocab, cfg.d_model) * 0.02)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The embeddings of tokens."""
        return nn.functional.embedding(tokens, self.W_E)


class Unembed(ShowsWeights):
    """The residual stream, normalised, to logits."""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.lm_head = Linear(cfg.d_model, cfg.d_vocab, bias=False)
        self.hook_in = HookPoint()  # [batch, pos, d_model]
        self.hook_out = HookPoint()  # [batch, pos, d_vocab]

    def forward(
        self, residual: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "rows pos d_vocab"]:  # as many as before, unless a hook takes some off
        """The logits of a normalised residual stream."""
        return self.hook_out(self.lm_head(self.hook_in(residual)))

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The directions of the logits, one a column."""
        return ShownWeight.of(self.lm_head.weight.T)

    @W_U.setter
    def W_U(self, value: Float[Tensor, "d_model d_vocab"]) -> None:
        store(self.lm_head, "weight", value.T)

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """The bias of the logits: zeros, where the checkpoint has none."""
        return shown_bias(self.lm_head, "b_U")

    @b_U.setter
    def b_U(self, value: Float[Tensor, " d_vocab"]) -> None:
        store(self.lm_head, "bias", value)
