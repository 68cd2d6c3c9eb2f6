"""Hook functions that read or replace activations: patch, ablate, steer, project_out, capture."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.hooks.selection import (
    HEAD_SITES,
    PATTERN_SITES,
    Heads,
    Hook,
    Layers,
    Positions,
    check_positions,
    hook_names,
    one_of,
    select_positions,
    split_by_layer,
)

Source = Mapping[str, Tensor] | Tensor
# (activation, hook) -> values of the same shape; `edit` puts them where the selection says.
NewValues = Callable[[Tensor, Any], Tensor]


def patch(
    site: str,
    *,
    source: Source,
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = None,
) -> list[Hook]:
    """Replace activations by those of another run (activation patching).

    Args:
        site: "resid_pre", "z", "audio_encoder.resid_post", …, or a hook name in full.
        source: that run's cache (an ActivationCache or a dictionary by hook name), or one tensor of
            the activation's shape; a batch of one serves every row.
        layer, layers: which; negative counts from the last; all by default.
        heads: head numbers, or (layer, head) pairs without layers; all by default.
        positions: integers, slice, boolean mask, or "last", "audio", "text", "generated".

    Raises:
        ValueError: when the hook runs, for heads or positions that do not exist, a source of
            another shape, or a cache without this activation.
    """

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        return _from_source(source, activation, hook)

    return edit(site, new_values, one_of(layer, layers), heads, positions)


def ablate(
    site: str,
    *,
    how: Literal["zero", "mean", "resample"] = "zero",
    source: Source | None = None,
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = None,
    seed: int = 0,
) -> list[Hook]:
    """Remove what activations say: set them to zero, to a mean, or to those of other examples.

    Args:
        how: "zero"; "mean", over the batch and positions of `source` (without it, of this batch
            at the same position); "resample", the values of another row of `source`, drawn by `seed`.
        source: a cache or tensor; its batch need not be this one. "resample" needs it.
        layer, layers, heads, positions: as in `patch`.
    """
    if how not in ("zero", "mean", "resample"):
        raise ValueError(f"how must be 'zero', 'mean' or 'resample', not {how!r}")
    if how == "resample" and source is None:
        raise ValueError("ablating by resampling needs source=, the cache of other examples")

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        if how == "zero":
            return torch.zeros_like(activation)
        given = activation if source is None else _stored(source, hook).to(activation)
        if how == "mean":
            axes = 0 if source is None else (0, 1)
            return given.mean(axes, keepdim=True).expand_as(activation)
        rows = torch.Generator().manual_seed(seed)
        drawn = given[torch.randint(len(given), (len(activation),), generator=rows)]
        return _from_source(drawn, activation, hook)

    return edit(site, new_values, one_of(layer, layers), heads, positions)


def steer(
    direction: Float[Tensor, "*batch d_model"],
    *,
    site: str = "resid_post",
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = "last",
    coefficient: float | Float[Tensor, " batch"] = 1.0,
) -> list[Hook]:
    """Add coefficient · direction.

    Args:
        direction: [d_model] (or [d_head] at a site with heads), or one a row, [batch, d_model].
        coefficient: a number, or one a row.
        positions: "last" by default, so the last prompt position and every generated token.
    """
    direction = torch.as_tensor(direction)
    if not bool(direction.isfinite().all()):
        raise ValueError("the direction has NaN or infinite entries")

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        along = direction.to(activation)
        if along.shape[-1] != activation.shape[-1]:
            raise ValueError(
                f"a direction of width {along.shape[-1]} at {hook.name}, whose width is "
                f"{activation.shape[-1]}"
            )
        strength = torch.as_tensor(coefficient, device=along.device, dtype=along.dtype)
        step = along * (strength[..., None] if strength.ndim else strength)
        return activation + _per_row(step, activation)

    return edit(site, new_values, one_of(layer, layers), heads, positions)


def project_out(
    directions: Float[Tensor, "*n d_model"],
    *,
    site: str = "resid_post",
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = None,
) -> list[Hook]:
    """Remove the part of the activations that lies in the span of `directions`, [n, d_model] or one."""
    basis = torch.linalg.qr(torch.atleast_2d(directions).float().T).Q  # [d_model, n]

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        axes = basis.to(activation)
        return activation - activation @ axes @ axes.T

    return edit(site, new_values, one_of(layer, layers), heads, positions)


def capture(
    store: dict[str, Tensor],
    site: str,
    *,
    layer: Layers = None,
    layers: Layers = None,
    positions: Positions = None,
) -> list[Hook]:
    """Put activations into `store` under their hook names, joined along the positions of later steps.

    With `positions` only those are kept, in order: [batch, n_selected, …].
    """
    positions = check_positions(positions)

    def function(activation: Tensor, hook: Any) -> None:
        kept = activation.detach()
        if positions is not None:
            selected = select_positions(positions, kept.shape[1], hook, kept.device)
            selected = selected.expand(len(kept), -1)
            if len(set(selected.sum(1).tolist())) > 1:
                raise ValueError("the rows select different numbers of positions; capture them all")
            kept = kept[selected].unflatten(0, (len(kept), -1))
        info = getattr(hook, "forward_info", None)
        if info is not None and info.n_past and hook.name in store:
            kept = torch.cat([store[hook.name], kept], dim=1)
        store[hook.name] = kept

    return [(name, function) for name in hook_names(site, one_of(layer, layers))]


def edit(
    site: str, new_values: NewValues, layers: Layers, heads: Heads, positions: Positions
) -> list[Hook]:
    """Hooks that replace the selected part of a site by `new_values`, leaving their input as it was."""
    positions = check_positions(positions)
    pairs: list[Hook] = []
    for some_layers, some_heads in split_by_layer(layers, heads):

        def function(activation: Tensor, hook: Any, heads: list[int] | None = some_heads) -> Tensor:
            selected = select_entries(activation, hook, heads, positions)
            return torch.where(selected, new_values(activation, hook), activation)

        pairs += [(name, function) for name in hook_names(site, some_layers)]
    return pairs


def select_entries(
    activation: Float[Tensor, "batch ..."], hook: Any, heads: list[int] | None, positions: Positions
) -> Bool[Tensor, "#batch ..."]:
    """The selection, broadcastable to the activation; in patterns the positions are the queries'.

    Raises:
        ValueError: for heads at a site without heads, or heads that do not exist.
    """
    site = hook.name.rsplit(".", 1)[-1]
    is_pattern = site in PATTERN_SITES
    position_axis, head_axis = (2, 1) if is_pattern else (1, 2)
    selected = select_positions(
        positions, activation.shape[position_axis], hook, activation.device
    )
    if selected.shape[0] not in (1, activation.shape[0]):
        raise ValueError(
            f"positions for {selected.shape[0]} rows, but {hook.name} has {activation.shape[0]}"
        )
    shape = [1] * activation.ndim
    shape[0], shape[position_axis] = selected.shape
    selected = selected.reshape(shape)
    if heads is None:
        return selected
    if not (is_pattern or site in HEAD_SITES):
        raise ValueError(f"{hook.name} has no heads; leave out heads=")
    shape = [1] * activation.ndim
    shape[head_axis] = activation.shape[head_axis]
    return selected & head_mask(heads, activation.shape[head_axis], hook).reshape(shape).to(
        activation.device
    )


def head_mask(heads: list[int], n_heads: int, hook: Any) -> Bool[Tensor, " head"]:
    """True at the chosen heads."""
    mask = torch.zeros(n_heads, dtype=torch.bool)
    for head in heads:
        if not -n_heads <= head < n_heads:
            raise ValueError(f"head {head} does not exist: {hook.name} has heads 0 to {n_heads - 1}")
        mask[head] = True
    return mask


def _stored(source: Source, hook: Any) -> Tensor:
    if isinstance(source, Tensor):
        return source
    try:
        return source[hook.name]
    except KeyError:
        raise ValueError(
            f"the source has no {hook.name!r}; include it in names_filter when caching"
        ) from None


def _from_source(source: Source, activation: Tensor, hook: Any) -> Tensor:
    """The source's values at the activation's positions; during generation it may end before them."""
    values = _stored(source, hook).to(activation)
    if values.ndim == activation.ndim - 1:
        values = values[None]
    info = getattr(hook, "forward_info", None)
    n_past = 0 if info is None else info.n_past
    axis = 2 if hook.name.endswith(PATTERN_SITES) else 1
    if n_past:
        values = values.narrow(axis, n_past, values.shape[axis] - n_past) if (
            values.shape[axis] > n_past
        ) else activation
    length = activation.shape[axis]
    if info is not None and info.n_prompt is not None and values.shape[axis] > length:
        values = values.narrow(axis, 0, length)
    if values.shape[1:] != activation.shape[1:] or len(values) not in (1, len(activation)):
        raise ValueError(
            f"the source has shape {tuple(values.shape)} at {hook.name}, the run "
            f"{tuple(activation.shape)}; clean and corrupted inputs must have the same length "
            "(pad or cut the shorter audio)"
        )
    return values.expand_as(activation)


def _per_row(step: Float[Tensor, "*batch width"], activation: Tensor) -> Tensor:
    """[width] as it is; [batch, width] with axes for what lies between batch and width."""
    if step.ndim == 1:
        return step
    if step.ndim != 2 or len(step) not in (1, len(activation)):
        raise ValueError(
            f"a direction of shape {tuple(step.shape)} for {len(activation)} rows; give one vector, "
            "or one a row"
        )
    return step.reshape(len(step), *[1] * (activation.ndim - 2), step.shape[-1])


