"""What is put in the place of an activation: the values of another run, or a mean of rows."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformer_lens import ActivationCache

from lens_audio.hooks.positions import along, sequence_at
from lens_audio.sites import Site

Source = Mapping[str, Tensor] | ActivationCache | Tensor


def stored(source: Source, site: Site, hook: Any) -> Tensor:
    """The source's activation at a hook point.

    Raises:
        ValueError: for a cache without it.
    """
    if isinstance(source, Tensor):
        return source
    name = site.name_at(hook)
    if name not in set(source):
        raise ValueError(f"the source has no {name!r}; include it in names_filter when caching")
    return source[name]


def in_place(values: Tensor, activation: Tensor, site: Site, hook: Any) -> Tensor:
    """A source's values at the activation's positions, and the activation where it has none.

    Raises:
        ValueError: for a source of another shape or length; while generating it may be longer or
            shorter than what has been generated, but not shorter than the prompt.
    """
    if values.ndim == activation.ndim - 1:
        values = values[None]
    axis, length = site.position_axis, activation.shape[site.position_axis]
    sequence, info = sequence_at(hook, length), getattr(hook, "forward_info", None)
    n_prompt, n_total = sequence.n_prompt, sequence.n_total
    # Tokens may follow the prompt, in this forward or in later ones.
    generating = info is not None and (info.n_prompt is not None or n_total > n_prompt)
    if values.ndim != activation.ndim or len(values) not in (1, len(activation)):
        raise other_shape(values, activation, hook)
    n_given = values.shape[axis]
    start = n_total - length
    if n_given == length and (info is None or not info.n_past):
        # Given as it is: of the last positions alone, where the unembedding sees only those.
        start = 0
    elif n_given != n_total and not (generating and n_given >= n_prompt):
        raise other_shape(values, activation, hook)
    n_shared = max(0, min(length, n_given - start))
    values = values.to(activation).narrow(axis, min(start, n_given), n_shared)
    if values.shape[1:] == activation.shape[1:]:
        return values.expand_as(activation)
    new = activation.clone()
    part = new.narrow(axis, 0, n_shared)
    if site.is_pattern and generating:  # keys, like queries, may be more or fewer
        n_keys = min(part.shape[-1], values.shape[-1])
        part, values = part[..., :n_keys], values[..., :n_keys]
    if part.shape[1:] != values.shape[1:]:
        raise other_shape(values, activation, hook)
    part.copy_(values)
    return new


def mean_of_rows(activation: Tensor, site: Site, hook: Any) -> Tensor:
    """The mean over the rows at each position, without those that are padding there."""
    info, axis = getattr(hook, "forward_info", None), site.position_axis
    real = None if info is None else info.attention_mask
    if real is None or len(activation) != len(real):
        return activation.mean(0, keepdim=True).expand_as(activation)
    real = along(real[:, real.shape[1] - activation.shape[axis] :], axis, activation)
    total = activation.masked_fill(~real.to(activation.device), 0).sum(0, keepdim=True)
    return (total / real.sum(0, keepdim=True).clamp(min=1).to(total)).expand_as(activation)


def other_shape(values: Tensor, activation: Tensor, hook: Any) -> ValueError:
    """The error for a source that does not fit the run."""
    return ValueError(
        f"the source has shape {tuple(values.shape)} at {hook.name}, the run "
        f"{tuple(activation.shape)}; clean and corrupted inputs must have the same length "
        "(la.data.pair pads or cuts recordings)"
    )
