"""Which entries of an activation a hook function touches."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.sites import Positions, Site, TokenSequence, counted, neuron_mask, select

__all__ = ["Positions", "along", "select_entries", "select_positions", "sequence_at"]


def sequence_at(hook: Any, length: int) -> TokenSequence:
    """The sequence in whose last `length` positions an activation lies.

    With a key-value cache an activation holds new positions only, and under `logits_to_keep` the
    unembedding sees the last ones only. Our decoder's hook points tell; others begin at position 0.
    """
    info = getattr(hook, "forward_info", None)
    if info is None:
        return TokenSequence.untold(length)
    n_prompt = info.n_prompt or info.n_first
    return TokenSequence(n_prompt, info.n_total, info.attention_mask, info.audio_mask)


def select_positions(
    positions: Positions, length: int, hook: Any, device: torch.device
) -> Bool[Tensor, "rows pos"]:
    """Which of an activation's `length` positions are selected; one row may stand for all.

    Raises:
        ValueError: for positions outside the prompt, or a group that this model cannot tell.
    """
    sequence = sequence_at(hook, length)
    return select(positions, sequence, device)[:, sequence.n_total - length :]


def select_entries(
    site: Site,
    activation: Tensor,
    hook: Any,
    heads: list[int] | None,
    positions: Positions,
    neurons: slice | Tensor | None = None,
) -> Bool[Tensor, "..."]:
    """The selection, broadcastable to the activation; in patterns the positions are the queries'.

    Raises:
        ValueError: for heads at a site without heads, or heads, neurons or rows that do not exist.
    """
    axis = site.position_axis
    selected = select_positions(positions, activation.shape[axis], hook, activation.device)
    selected = along(selected, axis, activation)
    if neurons is not None and site.neuron_axis is not None:
        among = neuron_mask(neurons, activation.shape[site.neuron_axis], hook.name)
        among = among[None].to(activation.device)
        selected = selected & along(among, site.neuron_axis, activation)
    if heads is None:
        return selected
    if site.head_axis is None:
        raise ValueError(f"{hook.name} has no heads; leave out heads=")
    n_heads = activation.shape[site.head_axis]
    chosen = torch.zeros(1, n_heads, dtype=torch.bool, device=activation.device)
    chosen[:, counted(heads, n_heads, "head", hook.name)] = True
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
