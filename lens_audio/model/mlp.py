"""The MLPs: gated (decoder) and plain (audio encoder)."""

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from transformers.activations import ACT2FN

from lens_audio.config import BlockConfig
from lens_audio.model.hook_point import HookPoint


class MLP(nn.Module):
    """down_proj(act(up_proj(x))): `hook_pre` is before the activation, `hook_post` after it."""

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        assert cfg.d_mlp is not None
        self.act_fn = ACT2FN[cfg.act_fn]
        self.up_proj = nn.Linear(cfg.d_model, cfg.d_mlp, bias=cfg.mlp_bias)
        self.down_proj = nn.Linear(cfg.d_mlp, cfg.d_model, bias=cfg.mlp_bias)
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp]
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.down_proj(self.hook_post(self.act_fn(self.hook_pre(self.up_proj(x)))))

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        return self.up_proj.weight.T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        return self.down_proj.weight.T

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"]:
        return bias_or_zeros(self.up_proj)

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        return bias_or_zeros(self.down_proj)


class GatedMLP(MLP):
    """down_proj(act(gate_proj(x)) · up_proj(x)): SwiGLU (Shazeer, arXiv 2002.05202).

    As in TransformerLens, `hook_pre` is the gate before its activation, `hook_pre_linear` the
    other factor, `hook_post` their product.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__(cfg)
        assert cfg.d_mlp is not None
        self.gate_proj = nn.Linear(cfg.d_model, cfg.d_mlp, bias=cfg.mlp_bias)
        self.hook_pre_linear = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        gate = self.act_fn(self.hook_pre(self.gate_proj(x)))
        return self.down_proj(self.hook_post(gate * self.hook_pre_linear(self.up_proj(x))))

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"]:
        return self.gate_proj.weight.T


def bias_or_zeros(linear: nn.Linear) -> Float[Tensor, " out"]:
    """The bias, or the zeros that TransformerLens keeps where there is none."""
    if linear.bias is not None:
        return linear.bias
    return torch.zeros(linear.out_features, dtype=linear.weight.dtype, device=linear.weight.device)
