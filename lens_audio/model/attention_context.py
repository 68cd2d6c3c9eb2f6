"""Who may attend to whom in one forward, and where each position stands."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.config import BlockConfig
from lens_audio.model.rotary import Rotary


@dataclass
class AttentionContext:
    """What all layers of one forward share: who may attend to whom, and the rotary tables."""

    n_queries: int
    n_keys: int
    causal: bool
    key_mask: Bool[Tensor, "batch key"] | None  # False: padding. None: there is no padding
    device: torch.device
    rotary: tuple[Tensor, Tensor] | None = None
    query_scale: Float[Tensor, "#batch query 1 1"] | None = None  # log-n scaling
    window: int | None = None  # attention stays inside each run of so many positions

    @classmethod
    def of(
        cls,
        cfg: BlockConfig,
        x: Float[Tensor, "batch pos ..."],
        attention_mask: Bool[Tensor, "batch total"] | None = None,
        n_past: int = 0,
        window: int | None = None,
    ) -> "AttentionContext":
        """The context for new activations `x` after `n_past` positions; the mask covers both."""
        n_queries, n_keys = x.shape[1], n_past + x.shape[1]
        key_mask = attention_mask
        if key_mask is not None and not torch.compiler.is_compiling() and bool(key_mask.all()):
            key_mask = None
        rotary = query_scale = None
        if cfg.positional_embedding_type == "rotary":
            positions = position_ids(key_mask, n_past, n_queries, x.device)
            policy = Rotary.of(cfg)
            rotary = policy.tables(positions, n_keys, key_mask, x.dtype)
            query_scale = policy.query_scale(positions, n_keys, x.dtype)
        causal = cfg.attention_dir == "causal"
        window = window if window is not None and window < n_keys else None
        return cls(n_queries, n_keys, causal, key_mask, x.device, rotary, query_scale, window)

    def to(self, device: torch.device | str | int, **_: Any) -> "AttentionContext":
        """The same on another device: a model spread over several asks for it at each block."""
        device = torch.device(device)
        if device == self.device:
            return self
        key_mask = None if self.key_mask is None else self.key_mask.to(device)
        rotary = self.rotary and (self.rotary[0].to(device), self.rotary[1].to(device))
        scale = None if self.query_scale is None else self.query_scale.to(device)
        return replace(self, key_mask=key_mask, device=device, rotary=rotary, query_scale=scale)

    @property
    def is_plain_causal(self) -> bool:
        """Whether scaled_dot_product_attention's own causal mask says it all."""
        return self.causal and self.key_mask is None and self.n_queries == self.n_keys > 1

    @cached_property
    def mask(self) -> Bool[Tensor, "#batch 1 #query key"] | None:
        """True where the query may attend to the key; None where every query may read all keys."""
        mask = None if self.key_mask is None else self.key_mask[:, None, None, :]
        if self.causal and self.n_queries > 1:
            allowed = torch.ones(self.n_queries, self.n_keys, dtype=torch.bool, device=self.device)
            allowed = allowed.tril(self.n_keys - self.n_queries)[None, None]
            mask = allowed if mask is None else mask & allowed
        if self.window is not None:
            number = torch.arange(self.n_keys, device=self.device) // self.window
            inside = (number[-self.n_queries :, None] == number)[None, None]
            mask = inside if mask is None else mask & inside
        return mask

    @cached_property
    def additive_mask(self) -> Float[Tensor, "#batch 1 #query key"]:
        """Zero where the query may attend to the key, -inf where it may not."""
        assert self.mask is not None
        return torch.zeros(self.mask.shape, device=self.device).masked_fill(~self.mask, -torch.inf)

    @cached_property
    def blind_queries(self) -> Bool[Tensor, "batch 1 query 1"] | None:
        """Queries with no key to attend to (left padding): their z is zero, as in TransformerLens."""
        if self.key_mask is None or self.mask is None:
            return None
        return ~self.mask.any(-1, keepdim=True)


def position_ids(
    attention_mask: Bool[Tensor, "batch total"] | None,
    n_past: int,
    n_new: int,
    device: torch.device,
) -> Int[Tensor, "batch new"]:
    """Positions of the new tokens, counted from each row's first real token."""
    if attention_mask is None:
        return torch.arange(n_past, n_past + n_new, device=device)[None]
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, n_past:]
