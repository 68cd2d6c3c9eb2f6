"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout of Qwen.

Qwen's first generation reads beyond the length it was trained on, `seq_length`, by two means that
its own code defines: dynamic NTK scaling of the rotary base, and log-n scaling of the queries.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.config import BlockConfig


def ntk_alpha(cfg: BlockConfig, lengths: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """2^ceil(log2(length / seq_length) + 1) - 1, at least 1: 1, 3, 7, … as the length doubles.

    Source: `get_ntk_alpha` of Qwen's modeling_qwen.py. Always 1 without dynamic NTK scaling.
    """
    if not cfg.use_dynamic_ntk or cfg.seq_length is None:
        return torch.ones_like(lengths, dtype=torch.float)
    exponents = (torch.log2(lengths.double() / cfg.seq_length) + 1).ceil()
    return (2**exponents - 1).clamp(min=1).float()


def rotary_base(cfg: BlockConfig, lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 1"]:
    """The base for sequences of so many real tokens, the same for all positions of a row.

    Dynamic NTK scaling: base · alpha^(d_head / (d_head - 2)).
    """
    alpha = ntk_alpha(cfg, lengths)[:, None, None]
    return cfg.rotary_base * alpha ** (cfg.d_head / (cfg.d_head - 2))


def rotation_changes(
    cfg: BlockConfig, past: Bool[Tensor, "_ past"] | None, new: Bool[Tensor, "_ new"]
) -> bool:
    """Whether a sequence longer by `new` has other rotary frequencies than the keys of its past.

    Args:
        past, new: [batch, pos], where tokens are no padding (another batch is refused later).
    """
    if not cfg.use_dynamic_ntk or cfg.seq_length is None or past is None:
        return False
    if past.shape[1] + new.shape[1] <= cfg.seq_length:
        return False
    before, after = past.sum(1), past.sum(1) + new.sum(1)
    return not torch.equal(ntk_alpha(cfg, before), ntk_alpha(cfg, after))


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
    cos: Float[Tensor, "#batch pos 1 d_head"],
    sin: Float[Tensor, "#batch pos 1 d_head"],
) -> Float[Tensor, "batch pos head d_head"]:
    """Rotate the pairs (i, i + d_head / 2) of every head: x cos + (-second, first) sin.

    The halves are added in place: on a CPU a tenth of the time of joining the rotated halves.
    """
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return rotated
