"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout of Qwen.

Qwen's first generation reads beyond the length it was trained on, `seq_length`, by two means that
its own code defines: dynamic NTK scaling of the rotary base, and log-n scaling of the queries.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.config import BlockConfig
from lens_audio.model.kv_cache import KeyValueCache


def ntk_alpha(cfg: BlockConfig, lengths: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """2^ceil(log2(length / seq_length) + 1) - 1, at least 1: 1, 3, 7, … as the length doubles.

    Source: `get_ntk_alpha` of Qwen's modeling_qwen.py. Always 1 without dynamic NTK scaling.
    """
    if not cfg.use_dynamic_ntk or cfg.seq_length is None:
        return torch.ones_like(lengths, dtype=torch.float)
    exponents = (torch.log2(lengths.double() / cfg.seq_length) + 1).ceil()
    return (2**exponents - 1).clamp(min=1).float()


def logn_scale(
    cfg: BlockConfig, positions: Int[Tensor, "batch pos"], dtype: torch.dtype
) -> Float[Tensor, "batch pos 1 1"]:
    """log(n) / log(seq_length) for the n-th token of a row, at least 1: what its query is scaled by."""
    assert cfg.seq_length is not None
    scale = (positions + 1).double().log() / math.log(cfg.seq_length)
    return scale.clamp(min=1).to(dtype)[..., None, None]


def rotary_tables(
    positions: Int[Tensor, "batch pos"],
    d_head: int,
    base: float | Float[Tensor, "batch 1 1"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch pos 1 d_head"], Float[Tensor, "batch pos 1 d_head"]]:
    """Cosine and sine of position · base^(-2i / d_head), computed in float32, cast to `dtype`."""
    exponents = torch.arange(0, d_head, 2, dtype=torch.int64, device=positions.device).float()
    angles = positions[..., None].float() * base ** (-exponents / d_head)
    angles = torch.cat([angles, angles], dim=-1)[:, :, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(
    x: Float[Tensor, "batch pos head d_head"],
    cos: Float[Tensor, "#batch pos 1 rotated"],
    sin: Float[Tensor, "#batch pos 1 rotated"],
) -> Float[Tensor, "batch pos head d_head"]:
    """Rotate the pairs (i, i + n / 2) of the first n dimensions of every head, as many as the tables
    have: x cos + (-second, first) sin.

    The halves are added in place: on a CPU a tenth of the time of joining the rotated halves.
    """
    n_rotated = cos.shape[-1]
    if n_rotated < x.shape[-1]:
        return torch.cat([apply_rotary(x[..., :n_rotated], cos, sin), x[..., n_rotated:]], dim=-1)
    half = n_rotated // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return rotated


class Rotary:
    """The policy of a rotary embedding: here one base, so that keys in a cache stay good.

    Where a longer sequence rotates all of its positions anew, a policy keeps in the cache what it
    takes to read the sequence again, and says when that must be.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        self.cfg = cfg

    @staticmethod
    def of(cfg: BlockConfig) -> "Rotary":
        """The policy that the config asks for."""
        return DynamicNTK(cfg) if cfg.use_dynamic_ntk else Rotary(cfg)

    def tables(
        self,
        positions: Int[Tensor, "batch pos"],
        n_keys: int,
        key_mask: Bool[Tensor, "batch key"] | None,
        dtype: torch.dtype,
    ) -> tuple[Float[Tensor, "batch pos 1 d_head"], Float[Tensor, "batch pos 1 d_head"]]:
        """Cosine and sine for positions of a sequence of so many keys, padding included."""
        base = self.base(positions, n_keys, key_mask)
        return rotary_tables(positions, self.cfg.rotary_dim or self.cfg.d_head, base, dtype)

    def base(
        self,
        positions: Int[Tensor, "batch pos"],
        n_keys: int,
        key_mask: Bool[Tensor, "batch key"] | None,
    ) -> float | Float[Tensor, "batch 1 1"]:
        """The base, for all positions of a row the same."""
        return self.cfg.rotary_base

    def query_scale(
        self, positions: Int[Tensor, "batch pos"], n_keys: int, dtype: torch.dtype
    ) -> Float[Tensor, "batch pos 1 1"] | None:
        """What a rotated query is multiplied by, where the config asks for log-n scaling."""
        if not self.cfg.use_logn_attn or n_keys <= (self.cfg.seq_length or 0):
            return None
        return logn_scale(self.cfg, positions, dtype)

    def keep(self, past: KeyValueCache, resid: Float[Tensor, "batch new d_model"]) -> None:
        """Keep in the cache what reading the sequence again would take of what enters the blocks."""

    def whole(
        self,
        past: KeyValueCache,
        resid: Float[Tensor, "batch new d_model"],
        mask: Bool[Tensor, "batch new"],
    ) -> tuple[Float[Tensor, "batch total d_model"], Bool[Tensor, "batch total"]] | None:
        """What enters the blocks, with its mask, if past and new must be read as one; else None."""
        return None


class DynamicNTK(Rotary):
    """Beyond `seq_length` the base grows as a row's real tokens double: base · alpha^(d / (d - 2)).

    With the frequencies every layer's output changes at every position, so that rotating the cached
    keys anew would not do: the cache keeps what entered the first block.
    """

    def base(
        self,
        positions: Int[Tensor, "batch pos"],
        n_keys: int,
        key_mask: Bool[Tensor, "batch key"] | None,
    ) -> float | Float[Tensor, "batch 1 1"]:
        """The base of each row, by how many real tokens it has."""
        if n_keys <= (self.cfg.seq_length or 0):
            return self.cfg.rotary_base
        lengths = positions.new_tensor([n_keys]) if key_mask is None else key_mask.sum(1)
        alpha = ntk_alpha(self.cfg, lengths)[:, None, None]
        return self.cfg.rotary_base * alpha ** (self.cfg.d_head / (self.cfg.d_head - 2))

    def keep(self, past: KeyValueCache, resid: Float[Tensor, "batch new d_model"]) -> None:
        """Keep what enters the first block."""
        past.append("inputs", resid)

    def whole(
        self,
        past: KeyValueCache,
        resid: Float[Tensor, "batch new d_model"],
        mask: Bool[Tensor, "batch new"],
    ) -> tuple[Float[Tensor, "batch total d_model"], Bool[Tensor, "batch total"]] | None:
        """Past and new inputs with their mask, where the new ones change the base; else None."""
        before = past.previous_attention_mask
        if before is None or before.shape[1] + mask.shape[1] <= (self.cfg.seq_length or 0):
            return None
        if len(before) != len(mask):  # which the cache refuses
            return None
        lengths = before.sum(1), before.sum(1) + mask.sum(1)
        if torch.equal(*(ntk_alpha(self.cfg, length) for length in lengths)):
            return None
        inputs = past.by_position["inputs"]
        return torch.cat([inputs, resid], dim=1), torch.cat([before, mask], dim=1)
