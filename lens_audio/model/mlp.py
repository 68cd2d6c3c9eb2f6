"""The MLPs: gated (decoder) and plain (audio encoder)."""

from jaxtyping import Float
from torch import Tensor
from transformers.activations import ACT2FN

from lens_audio.config import BlockConfig
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.linear import Linear
from lens_audio.model.shown import ShownWeight, ShowsWeights, shown_bias, store


class MLP(ShowsWeights):
    """down_proj(act(up_proj(x))): `hook_pre` is before the activation, `hook_post` after it."""

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        assert cfg.d_mlp is not None
        self.act_fn = ACT2FN[cfg.act_fn]
        self.up_proj = Linear(cfg.d_model, cfg.d_mlp, bias=cfg.mlp_bias)
        self.down_proj = Linear(cfg.d_mlp, cfg.d_model, bias=cfg.mlp_bias)
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp]
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP writes, of its normalised input."""
        return self.down_proj(self.hook_post(self.act_fn(self.hook_pre(self.up_proj(x)))))

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """The weights from the input to the neurons."""
        return ShownWeight.of(self.up_proj.weight.T)

    @W_in.setter
    def W_in(self, value: Float[Tensor, "d_model d_mlp"]) -> None:
        store(self.up_proj, "weight", value.T)

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """The weights from the neurons to what is written."""
        return ShownWeight.of(self.down_proj.weight.T)

    @W_out.setter
    def W_out(self, value: Float[Tensor, "d_mlp d_model"]) -> None:
        store(self.down_proj, "weight", value.T)

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"]:
        """The biases of the neurons."""
        return shown_bias(self.up_proj, "b_in")

    @b_in.setter
    def b_in(self, value: Float[Tensor, " d_mlp"]) -> None:
        store(self.up_proj, "bias", value)

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        """The bias of what is written."""
        return shown_bias(self.down_proj, "b_out")

    @b_out.setter
    def b_out(self, value: Float[Tensor, " d_model"]) -> None:
        store(self.down_proj, "bias", value)


class GatedMLP(MLP):
    """down_proj(act(gate_proj(x)) · up_proj(x)): SwiGLU (Shazeer, arXiv 2002.05202).

    As in TransformerLens, `hook_pre` is the gate before its activation, `hook_pre_linear` the
    other factor, `hook_post` their product.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__(cfg)
        assert cfg.d_mlp is not None
        self.gate_proj = Linear(cfg.d_model, cfg.d_mlp, bias=cfg.mlp_bias)
        self.hook_pre_linear = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP writes, of its normalised input."""
        gate = self.act_fn(self.hook_pre(self.gate_proj(x)))
        return self.down_proj(self.hook_post(gate * self.hook_pre_linear(self.up_proj(x))))

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"]:
        """The weights from the input to the neurons' gates."""
        return ShownWeight.of(self.gate_proj.weight.T)

    @W_gate.setter
    def W_gate(self, value: Float[Tensor, "d_model d_mlp"]) -> None:
        store(self.gate_proj, "weight", value.T)
