"""What audio-silence steering adds and how much of it, whichever implementation runs the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.listening import Head, check_heads
from lens_audio.steering.storage import check_fits

ADAPTIVE = ("constant", "listening", "confidence")


@dataclass(frozen=True, eq=False)
class AudioSilenceSettings:
    """The fields of `AudioSilenceSteering`, checked."""

    heads: Sequence[Head]
    beta: float | int = 1.0
    adaptive: str = "constant"
    direction: Float[Tensor, " d_model"] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple((int(l), int(h)) for l, h in self.heads))
        if not self.heads:
            raise ValueError("no specialist heads; give at least one (layer, head) pair")
        if not torch.tensor(float(self.beta)).isfinite():
            raise ValueError(f"beta must be a finite number, not {self.beta}")
        if self.adaptive not in ADAPTIVE:
            raise ValueError(f"adaptive must be one of {ADAPTIVE}, not {self.adaptive!r}")
        if self.direction is not None and not bool(self.direction.isfinite().all()):
            raise ValueError("the direction has NaN or infinite entries")

    @property
    def layers(self) -> list[int]:
        """L(S): the layers that hold specialists, ascending."""
        return sorted({layer for layer, _ in self.heads})

    def check_sizes(self, sizes: dict[str, Any]) -> None:
        """`check` against `n_layers`, `n_heads` and `d_model` alone."""
        check_fits(self.provenance.get("model") or {}, sizes, "this steering")
        check_heads(self.heads, sizes["n_layers"], sizes["n_heads"])
        if self.direction is not None and len(self.direction) != sizes["d_model"]:
            raise ValueError(
                f"the direction has width {len(self.direction)}, this model {sizes['d_model']}"
            )


def steps(
    steering: AudioSilenceSettings,
    s: Float[Tensor, "batch d_model"],
    score: Float[Tensor, " batch"] | None,
    logits: Callable[[], Float[Tensor, "batch d_vocab"]],
) -> Float[Tensor, "batch d_model"]:
    """beta · s, adapted to each row by its listening score or its unsteered next-token logits."""
    factor = torch.ones(len(s), device=s.device)
    if steering.adaptive == "listening":
        assert score is not None
        factor = 1 - score
    elif steering.adaptive == "confidence":
        factor = 1 - confidence(logits())
    return steering.beta * factor[:, None].to(s) * s


def confidence(logits: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes"]:
    """The probability of the likeliest next token."""
    return logits.float().softmax(-1).amax(-1)


def added(
    after: Float[Tensor, "batch pos d_model"],
    step: Float[Tensor, "batch d_model"],
    positions: Bool[Tensor, "#batch pos"],
) -> Float[Tensor, "batch pos d_model"]:
    """The final representation with beta · s added at these positions."""
    if len(step) != len(after):
        raise ValueError(
            f"steering knows {len(step)} prompts, but {len(after)} rows continue them; continue "
            "the batch that was read last"
        )
    return torch.where(positions[..., None], after + step[:, None].to(after), after)
