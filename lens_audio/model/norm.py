"""RMSNorm (decoder) and LayerNorm (audio encoder)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lens_audio.config import BlockConfig
from lens_audio.model.hook_point import HookPoint


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · w, the mean in float32 as in Qwen2.

    `hook_scale` is the divisor, `hook_normalized` the quotient before w, as in TransformerLens.
    Without a hook on either, one fused operation does it all.
    """

    centered = False

    def __init__(self, cfg: BlockConfig, width: int | None = None) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model if width is None else width))
        self.hook_scale = HookPoint()  # [batch, pos, 1], of heads [batch, pos, head, 1]
        self.hook_normalized = HookPoint()  # [batch, pos, d_model], [batch, pos, head, d_head]

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """x over its scale, times w."""
        dtype = self.w.dtype
        if not (self.hook_scale.has_hooks() or self.hook_normalized.has_hooks()):
            return self._fused(x)
        x = x.float() if dtype in (torch.float16, torch.bfloat16) else x
        if self.centered:
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self._affine(self.hook_normalized(x / scale).to(dtype))

    def _fused(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        if self.w.dtype in (torch.float16, torch.bfloat16):  # Qwen2 rounds before it multiplies
            return F.rms_norm(x.float(), self.w.shape, eps=self.eps).to(self.w.dtype) * self.w
        return F.rms_norm(x, self.w.shape, self.w, self.eps)

    def _affine(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return x * self.w


class LayerNorm(RMSNorm):
    """(x - mean(x)) / sqrt(var(x) + eps) · w + b."""

    centered = True

    def __init__(self, cfg: BlockConfig, width: int | None = None) -> None:
        super().__init__(cfg, width)
        self.b = nn.Parameter(torch.zeros_like(self.w))

    def _fused(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)

    def _affine(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return x * self.w + self.b


def make_norm(cfg: BlockConfig) -> RMSNorm:
    """The normalisation that `cfg.normalization_type` ("RMS" or "LN") names."""
    return {"RMS": RMSNorm, "LN": LayerNorm}[cfg.normalization_type or ""](cfg)
