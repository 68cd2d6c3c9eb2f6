"""TransformerLens's views of the weights: `model.W_Q`, `model.OV`, `tl_parameters()`, …"""

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.utilities import composition_scores

from lens_audio.model.decoder import Decoder
from lens_audio.model.shown import ShownWeight
from lens_audio.sites import every_head, head_name


class WeightViews(Decoder):
    """The stacked weights of a decoder in TransformerLens's shapes, computed on access.

    A layer's own (`blocks[l].attn.W_Q`) are views of the stored weights; the stacks are copies.
    Grouped keys and values are shown once for each query head, as TransformerLens does.
    """

    def _stack(self, part: str, name: str) -> Tensor:
        stacked = torch.stack([getattr(getattr(block, part), name) for block in self.blocks])
        return ShownWeight.of(
            stacked,
            f"model.{name} is a copy, stacked from all layers. Edit "
            f"model.blocks[layer].{part}.{name} instead",
        )

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding of every token, one a row."""
        return self.embed.W_E

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The direction of every token's logit, one a column."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """The bias of the logits."""
        return self.unembed.b_U

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """The weights of every head's queries."""
        return self._stack("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """The weights of every query head's keys."""
        return self._stack("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """The weights of every query head's values."""
        return self._stack("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """The weights of what every head writes."""
        return self._stack("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """The biases of every head's queries."""
        return self._stack("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """The biases of every query head's keys."""
        return self._stack("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """The biases of every query head's values."""
        return self._stack("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """The bias of what each layer's heads write together."""
        return self._stack("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """The weights from each MLP's input to its neurons."""
        return self._stack("mlp", "W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """The weights from each MLP's input to its neurons' gates."""
        return self._stack("mlp", "W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """The weights from each MLP's neurons to what it writes."""
        return self._stack("mlp", "W_out")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """The biases of each MLP's neurons."""
        return self._stack("mlp", "b_in")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """The bias of what each MLP writes."""
        return self._stack("mlp", "b_out")

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_Kᵀ of every head, [layer, head, d_model, d_model]."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head, [layer, head, d_model, d_model]."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def n_params_total(self) -> int:
        """How many numbers the model's weights are, the audio encoder's included."""
        return sum(weight.numel() for weight in self.parameters())

    def tl_parameters(self) -> dict[str, Tensor]:
        """The decoder's weights under TransformerLens's names and shapes (SVDInterpreter reads them)."""
        named = {"embed.W_E": self.W_E, "unembed.W_U": self.W_U, "unembed.b_U": self.b_U}
        attn_names = [f"{kind}_{part}" for part in "QKVO" for kind in "Wb"]
        for layer, block in enumerate(self.blocks):
            for name in attn_names:
                named[f"blocks.{layer}.attn.{name}"] = getattr(block.attn, name)
            for name in ("W_in", "W_gate", "W_out", "b_in", "b_out"):
                named[f"blocks.{layer}.mlp.{name}"] = getattr(block.mlp, name)
            named[f"blocks.{layer}.ln1.w"] = block.ln1.w
            named[f"blocks.{layer}.ln2.w"] = block.ln2.w
        named["ln_final.w"] = self.ln_final.w
        return named

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases up to the input of `layer` (of its MLP with `mlp_input`).

        Raises:
            ValueError: for a layer outside [0, n_layers], or `mlp_input` beyond the last layer.
        """
        n_layers = len(self.blocks)
        if not 0 <= layer <= n_layers - mlp_input:
            raise ValueError(f"layer {layer} is outside 0 to {n_layers - mlp_input}")
        total = torch.zeros_like(self.ln_final.w)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O
            if include_mlp_biases:
                total = total + block.mlp.b_out
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    def all_composition_scores(self, mode: str) -> Float[Tensor, "layer head layer2 head2"]:
        """Composition scores of every head with every head of a later layer, mode "Q", "K" or "V".

        Source: Elhage et al., A Mathematical Framework for Transformer Circuits.
        """
        later = {"Q": self.QK, "K": self.QK.T, "V": self.OV}
        if mode not in later:
            raise ValueError(f"mode must be 'Q', 'K' or 'V', not {mode!r}")
        scores = composition_scores(self.OV, later[mode], broadcast_dims=True)
        layers = torch.arange(len(self.blocks), device=scores.device)
        return scores * (layers[:, None, None, None] < layers[:, None])

    def all_head_labels(self) -> list[str]:
        """`L0H0`, `L0H1`, … in the order of `stack_head_results`."""
        return [head_name(*head) for head in every_head(self.cfg.n_layers, self.cfg.n_heads)]
