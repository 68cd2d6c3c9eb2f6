"""Which entries of an activation a hook function touches: positions and heads.

Integers, slices and masks select positions of the prompt, negative ones counting from its end;
generated tokens are reached by "last", "generated", "all", or by selecting nothing at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from lens_audio.hooks.selection import Site

Positions = str | slice | SupportsIndex | Sequence[Any] | Tensor | None

GROUPS = ("all", "last", "audio", "text", "generated")


@dataclass(frozen=True)
class Place:
    """Where an activation lies: its last position is position `total - 1` of its sequence.

    With a key-value cache an activation holds new positions only, and under `logits_to_keep` the
    unembedding sees the last ones only. Our decoder's hook points tell; others begin at position 0.
    """

    total: int
    n_prompt: int
    generating: bool  # tokens may follow the prompt, in this forward or in later ones
    info: Any  # the model's ForwardInfo, or None

    @classmethod
    def of(cls, hook: Any, length: int) -> "Place":
        info = getattr(hook, "forward_info", None)
        if info is None:
            return cls(length, length, False, None)
        n_prompt = info.n_prompt or info.n_first
        generating = info.n_prompt is not None or info.n_total > n_prompt
        return cls(info.n_total, n_prompt, generating, info)


def check_positions(positions: Positions, site: Site) -> Positions:
    """Positions that can select something: a group, a slice, or a tensor of integers or a mask.

    Raises:
        ValueError: for an unknown group or one the site lacks, a selection of nothing, or what is
            no position.
    """
    if positions is None or isinstance(positions, slice):
        return positions
    if isinstance(positions, str):
        if positions not in GROUPS:
            raise ValueError(
                f"no token group is called {positions!r}; there are {', '.join(GROUPS)}"
            )
        if site.is_audio and positions != "all":
            raise ValueError(
                f"{site.template} is before the decoder; it has no {positions!r} tokens"
            )
        return positions
    tensor = torch.as_tensor(positions)
    is_mask = tensor.dtype == torch.bool
    if tensor.numel() == 0 or (is_mask and not bool(tensor.any())):
        raise ValueError("an empty selection of positions; leave it out to mean all of them")
    if tensor.is_floating_point() or tensor.ndim not in ((1, 2) if is_mask else (0, 1)):
        raise ValueError(
            "positions must be integers, the same for all rows, or a boolean mask [pos] or "
            f"[batch, pos]; not {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor


def select_positions(
    positions: Positions, length: int, hook: Any, device: torch.device
) -> Bool[Tensor, "rows pos"]:
    """Which of an activation's `length` positions are selected; one row may stand for all.

    Raises:
        ValueError: for positions outside the prompt, or a group that this model cannot tell.
    """
    place = Place.of(hook, length)
    if positions is None or isinstance(positions, str):
        mask = _group(positions or "all", place, device)
    else:
        mask = _in_prompt(positions, place.n_prompt, device)
        mask = F.pad(mask, (0, place.total - place.n_prompt))
    return mask[:, place.total - length :]


def select_entries(
    site: Site,
    activation: Tensor,
    hook: Any,
    heads: list[int] | None,
    positions: Positions,
) -> Bool[Tensor, "..."]:
    """The selection, broadcastable to the activation; in patterns the positions are the queries'.

    Raises:
        ValueError: for heads at a site without heads, or heads or rows that do not exist.
    """
    axis = site.position_axis
    selected = select_positions(positions, activation.shape[axis], hook, activation.device)
    selected = along(selected, axis, activation)
    if heads is None:
        return selected
    if site.head_axis is None:
        raise ValueError(f"{hook.name} has no heads; leave out heads=")
    n_heads = activation.shape[site.head_axis]
    chosen = torch.zeros(1, n_heads, dtype=torch.bool, device=activation.device)
    for head in heads:
        if not -n_heads <= head < n_heads:
            raise ValueError(
                f"head {head} does not exist: {hook.name} has heads 0 to {n_heads - 1}"
            )
        chosen[:, head] = True
    return selected & along(chosen, site.head_axis, activation)


def along(rows: Tensor, axis: int, activation: Tensor) -> Tensor:
    """[rows, n] with its second dimension at `axis`, broadcastable to the activation.

    Raises:
        ValueError: for another number of rows than the activation's.
    """
    if len(rows) not in (1, len(activation)):
        raise ValueError(f"a selection of {len(rows)} rows in a batch of {len(activation)}")
    shape = [1] * activation.ndim
    shape[0], shape[axis] = rows.shape
    return rows.reshape(shape)


def _in_prompt(positions: Any, n_prompt: int, device: torch.device) -> Bool[Tensor, "rows pos"]:
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        mask = torch.atleast_2d(positions).to(device)
        if mask.shape[1] != n_prompt:
            raise ValueError(f"a mask of {mask.shape[1]} positions for a sequence of {n_prompt}")
        return mask
    mask = torch.zeros(1, n_prompt, dtype=torch.bool, device=device)
    if isinstance(positions, slice):
        mask[:, positions] = True
        if not bool(mask.any()):
            raise ValueError(f"{positions} selects none of the {n_prompt} positions")
        return mask
    wanted = torch.as_tensor(positions, device=device).reshape(-1)
    outside = wanted[(wanted < -n_prompt) | (wanted >= n_prompt)]
    if len(outside):
        raise ValueError(
            f"position {int(outside[0])} is outside the sequence of {n_prompt} positions; "
            "generated tokens are selected by 'generated' or 'last'"
        )
    mask[:, wanted.long()] = True
    return mask


def _group(group: str, place: Place, device: torch.device) -> Bool[Tensor, "rows pos"]:
    """The whole sequence's positions in a token group."""
    places = torch.arange(place.total, device=device)[None]
    in_prompt, info = places < place.n_prompt, place.info
    if group == "all":
        return places >= 0
    real = in_prompt | True if info is None or info.attention_mask is None else info.attention_mask
    real = real.to(device)
    if group == "last":  # of the prompt, and every token after it
        return (places == (real * in_prompt * places).argmax(1, keepdim=True)) | ~in_prompt
    if info is None:
        raise ValueError(
            f"this model does not tell which tokens are {group!r}; pass a mask, prompt.audio_mask"
        )
    if group == "generated":
        return ~in_prompt
    audio = torch.zeros_like(in_prompt)
    if info.audio_mask is not None:
        heard = info.audio_mask.to(device)
        audio = F.pad(heard, (0, place.total - heard.shape[1]))
    if group == "audio" and not bool(audio.any()):
        raise ValueError("positions='audio', but the input has no audio tokens")
    return audio if group == "audio" else ~audio & real & in_prompt
