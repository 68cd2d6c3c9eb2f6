"""TransformerLens's options of `from_pretrained`: those that mean something here, and the others."""

from dataclasses import dataclass
from typing import Any

PROCESSING = {
    "fold_ln": "tokens_to_residual_directions has the last norm's weight in it, and each norm's own "
    "is `ln1.w`, `ln2.w`, `ln_final.w`",
    "center_writing_weights": "RMSNorm does not subtract a mean, so centring would change the output",
    "center_unembed": "subtract the mean of the logits, which is all that it does",
    "fold_value_biases": "they are `attn.b_V`, and `cache.decompose_resid` counts them",
    "refactor_factored_attn_matrices": "use `attn.QK` and `attn.OV`, which are factored",
}


@dataclass(kw_only=True)
class TransformerLensOptions:
    """What `from_pretrained` takes for those who come from TransformerLens.

    Weights are never processed: activations are those of the checkpoint, as its own code computes
    them. A processing flag that is False asks for just that.

    Args:
        tokenizer: in the place of the checkpoint's. Prompts are made by the checkpoint's processor
            all the same.
        first_n_layers: load only so many layers of the decoder.
        default_prepend_bos: of `cfg`.
        default_padding_side: of the tokenizer; prompts are padded on the left in any case.
        torch_dtype: transformers' older name of `dtype`.

    Raises:
        ValueError: for an option that asks for what is not done here, with what to do instead.
    """

    tokenizer: Any = None
    first_n_layers: int | None = None
    default_prepend_bos: bool | None = None
    default_padding_side: str | None = None
    torch_dtype: Any = None
    fold_ln: bool | None = False
    center_writing_weights: bool | None = False
    center_unembed: bool | None = False
    fold_value_biases: bool | None = False
    refactor_factored_attn_matrices: bool | None = False
    hf_model: Any = None
    move_to_device: bool = True
    n_devices: int = 1
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, instead in PROCESSING.items():
            if getattr(self, name):
                raise ValueError(
                    f"{name}=True: weights are loaded as they are, so that activations are the "
                    f"checkpoint's own. Leave it out; {instead}"
                )
        if self.hf_model is not None:
            raise ValueError("hf_model: use from_hf(hf_model, processor), which copies no weights")
        if self.trust_remote_code:
            raise ValueError("trust_remote_code=True: no code of a checkpoint is ever run")
        if self.n_devices != 1 or not self.move_to_device:
            raise ValueError(
                "the weights are read straight to one device: leave out n_devices and "
                "move_to_device, and give device="
            )
        if self.default_padding_side not in (None, "left", "right"):
            raise ValueError(
                f"default_padding_side must be 'left' or 'right', not {self.default_padding_side!r}"
            )
