"""Which neurons of an MLP: numbers, a slice, or a boolean mask over its width."""

from collections.abc import Iterable
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lens_audio.sites.heads import counted
from lens_audio.sites.site import NEURON_SITES, Site

Neurons = SupportsIndex | slice | Iterable[Any] | Tensor | None


def check_neurons(neurons: Any, site: Site) -> slice | Shaped[Tensor, " n"] | None:
    """Neurons that can select something: a slice, or a tensor of integers or a mask.

    Raises:
        ValueError: for a site without neurons, a selection of nothing, or what selects no neurons.
    """
    if neurons is None:
        return None
    if site.neuron_axis is None:
        raise no_neurons(site)
    if isinstance(neurons, slice):
        return neurons
    try:
        listed = neurons if hasattr(neurons, "__index__") else list(neurons)
        chosen = torch.atleast_1d(torch.as_tensor(listed))
    except (TypeError, ValueError, RuntimeError):
        chosen = None
    if chosen is not None and chosen.numel() == 0:
        raise ValueError("an empty selection of neurons; leave it out to mean all of them")
    if chosen is None or chosen.is_floating_point() or chosen.ndim != 1:
        raise ValueError(
            f"neurons must be integers, a slice or a boolean mask [d_mlp], not {neurons!r}"
        )
    if chosen.dtype == torch.bool and not bool(chosen.any()):
        raise ValueError("the mask selects no neurons; leave neurons= out to mean all of them")
    return chosen


def neuron_mask(
    neurons: slice | Shaped[Tensor, " n"], n: int, where: str = ""
) -> Bool[Tensor, " neuron"]:
    """Which of `n` neurons are selected.

    Args:
        neurons: as `check_neurons` gives them; negative numbers count from the last.
        where: what has them, for the message.

    Raises:
        ValueError: for neurons that do not exist, or a mask of another length.
    """
    mask = torch.zeros(n, dtype=torch.bool)
    if isinstance(neurons, slice):
        mask[neurons] = True
        if not bool(mask.any()):
            raise ValueError(f"{neurons} selects none of the {n} neurons")
    elif neurons.dtype == torch.bool:
        if len(neurons) != n:
            raise ValueError(f"a mask of {len(neurons)} neurons where there are {n}")
        mask |= neurons.cpu()
    else:
        mask[counted(neurons, n, "neuron", where)] = True
    return mask


def no_neurons(site: Site) -> ValueError:
    """The error for neurons at a site that has none, with the reason."""
    reason = "only the inner layer of an MLP has neurons"
    if site.short == "mlp_out":
        reason = "it is the sum of what the neurons write"
    elif site.head_axis is not None:
        reason = "it has heads (heads=)"
    known = ", ".join(NEURON_SITES)
    return ValueError(
        f"{site.name!r} has no neurons: {reason}. Neurons can be chosen at {known}, of the decoder or "
        "(with audio_encoder. in front) of the encoder"
    )
