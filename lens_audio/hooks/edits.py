"""Hook functions that replace activations: patch, ablate, scale, steer, project_out."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.fingerprint import carrying
from lens_audio.hooks.positions import select_entries
from lens_audio.hooks.selection import Hook, one_of
from lens_audio.hooks.sources import Source, in_place, mean_of_rows, other_shape, stored
from lens_audio.model.hook_point import only_reads
from lens_audio.sites import (
    Heads,
    Layers,
    Neurons,
    Positions,
    Site,
    check_neurons,
    check_positions,
    heads_by_layer,
)

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
    neurons: Neurons = None,
) -> list[Hook]:
    """Replace activations by those of another run (activation patching).

    While generating, positions that the source does not reach stay as they are.

    Args:
        site: "resid_pre", "z", "audio_encoder.resid_post", …, or a hook name in full.
        source: that run's cache (an ActivationCache or a dictionary by hook name), or one tensor of
            the activation's shape; a batch of one serves every row.
        layer, layers: which; negative counts from the last; all by default.
        heads: head numbers, or (layer, head) pairs or labels ("L0H2") without layers; all by default.
        positions: integers, a slice or a boolean mask of positions of the prompt, or "last" (its
            last position and every generated token), "audio", "text", "generated", "all".
        neurons: integers, a slice or a boolean mask over an MLP's width, at "mlp_post", "mlp_pre" or
            "mlp_pre_linear", the encoder's too; all by default.

    Raises:
        ValueError: for neurons at a site without; when the hook runs, for heads, neurons or positions
            that do not exist, a source of another shape, or a cache without this activation.
    """
    where = Site.of(site)

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        return in_place(stored(source, where, hook), activation, where, hook)

    carrying(new_values, what="patch", source=source)
    return edit(where, new_values, one_of(layer, layers), heads, positions, neurons)


def ablate(
    site: str,
    *,
    how: str = "zero",
    source: Source | None = None,
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = None,
    neurons: Neurons = None,
    seed: int = 0,
) -> list[Hook]:
    """Remove what activations say: set them to zero, to a mean, or to those of other examples.

    Args:
        how: "zero"; "mean", over the batch and positions of `source` (of patterns and scores, over
            the batch), or without it over the rows of this batch that are real at the position;
            "resample", the values of a row of `source` at the same position, drawn by `seed` and
            the same in every layer.
        source: a cache or tensor; its batch need not be this one, and all its positions count, so
            it is best without padding. "resample" needs it.
        layer, layers, heads, positions, neurons: as in `patch`.
    """
    where = Site.of(site)
    if how not in ("zero", "mean", "resample"):
        raise ValueError(f"how must be 'zero', 'mean' or 'resample', not {how!r}")
    if how == "resample" and source is None:
        raise ValueError("ablating by resampling needs source=, the cache of other examples")

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        if how == "zero":
            return torch.zeros_like(activation)
        if source is None:
            return mean_of_rows(activation, where, hook)
        given = stored(source, where, hook)
        if how == "mean" and not where.is_pattern:
            mean = given.to(activation).mean((0, 1))
            if mean.shape != activation.shape[2:]:
                raise other_shape(given, activation, hook)
            return mean.expand_as(activation)
        if how == "mean":
            return in_place(given.mean(0, keepdim=True), activation, where, hook)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(given), (len(activation),), generator=generator)
        return in_place(given[rows.to(given.device)], activation, where, hook)

    carrying(new_values, what="ablate", how=how, source=source, seed=seed)
    return edit(where, new_values, one_of(layer, layers), heads, positions, neurons)


def scale(
    site: str,
    *,
    factor: float,
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = None,
    neurons: Neurons = None,
) -> list[Hook]:
    """Multiply activations by `factor`.

    Args:
        factor: 0 is what `ablate` does with "zero", 1 changes nothing, -1 turns the sign.
        layer, layers, heads, positions, neurons: as in `patch`.

    Raises:
        ValueError: for a factor that is infinite or NaN, or attention scores; otherwise as in
            `patch`.
    """
    where = Site.of(site)
    if not math.isfinite(factor):
        raise ValueError(f"factor must be a finite number, not {factor}")
    if where.last_name == "hook_attn_scores":
        raise ValueError(
            "attention scores are logarithms, -inf at masked keys, so a multiple of them is no "
            "multiple of the attention; hooks.scale_attention multiplies that"
        )

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        return activation * factor

    carrying(new_values, what="scale", factor=factor)
    return edit(where, new_values, one_of(layer, layers), heads, positions, neurons)


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
        positions: "last" by default: the last prompt position and every generated token.

    Raises:
        ValueError: for NaN or infinite entries; when the hook runs, for another width or batch.
    """
    where, direction = Site.of(site), _directions(direction)
    strength = torch.as_tensor(coefficient)[..., None]
    if strength.ndim > 2 or not bool(strength.isfinite().all()):
        raise ValueError("the coefficient must be one finite number, or one a row")

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        _check_width(direction, activation, hook)
        step = _per_row(direction, activation, hook) * _per_row(strength, activation, hook)
        return activation + step

    carrying(new_values, what="steer", direction=direction, coefficient=strength)
    return edit(where, new_values, one_of(layer, layers), heads, positions)


def project_out(
    directions: Float[Tensor, "*n d_model"],
    *,
    site: str = "resid_post",
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
    positions: Positions = None,
) -> list[Hook]:
    """Remove the part of the activations that lies in the span of `directions`.

    Args:
        directions: [d_model], or several, [n, d_model]; they need not be independent.

    Raises:
        ValueError: for NaN or infinite entries, or directions that are all zero; when the hook
            runs, for another width.
    """
    where = Site.of(site)
    given = torch.atleast_2d(_directions(directions)).detach().float()
    _, strengths, axes = torch.linalg.svd(given, full_matrices=False)
    # Directions may depend on each other: only axes that they really reach are removed.
    basis = axes[strengths > strengths.max() * max(given.shape) * torch.finfo(torch.float32).eps]
    if len(basis) == 0:
        raise ValueError("the directions are all zero, so they span nothing to project out")

    def new_values(activation: Tensor, hook: Any) -> Tensor:
        _check_width(basis, activation, hook)
        x = activation.float() if activation.dtype.itemsize < 4 else activation
        axes = basis.to(x)
        return (x - x @ axes.T @ axes).to(activation)

    carrying(new_values, what="project out", directions=given)
    return edit(where, new_values, one_of(layer, layers), heads, positions)


def edit(
    site: Site,
    new_values: NewValues,
    layers: Layers,
    heads: Heads,
    positions: Positions,
    neurons: Neurons = None,
) -> list[Hook]:
    """Hooks that replace the selected part of a site by `new_values`, in a copy.

    The facts of `new_values` (see `fingerprint.carrying`) become those of the hooks' functions.
    """
    positions, neurons = check_positions(positions, site), check_neurons(neurons, site)
    facts = getattr(new_values, "facts", None)
    # Named where they are chosen, so that facts of before they could be are the same still.
    of_neurons = {} if neurons is None else {"neurons": neurons}
    pairs: list[Hook] = []
    for some_layers, some_heads in heads_by_layer(layers, heads):

        @only_reads
        def function(activation: Tensor, hook: Any, heads: list[int] | None = some_heads) -> Tensor:
            selected = select_entries(site, activation, hook, heads, positions, neurons)
            return torch.where(selected, new_values(activation, hook), activation)

        if facts is not None:
            carrying(function, **facts, site=site.template, heads=some_heads, positions=positions,
                     **of_neurons)  # fmt: skip
        pairs += [(name, function) for name in site.names(some_layers)]
    return pairs


def _directions(directions: Tensor) -> Tensor:
    directions = torch.as_tensor(directions)
    if directions.ndim not in (1, 2) or directions.numel() == 0:
        raise ValueError(
            f"a direction of shape {tuple(directions.shape)}; give [width] or [n, width]"
        )
    if not bool(directions.isfinite().all()):
        raise ValueError("the direction has NaN or infinite entries")
    return directions


def _check_width(directions: Tensor, activation: Tensor, hook: Any) -> None:
    if directions.shape[-1] != activation.shape[-1]:
        raise ValueError(
            f"a direction of width {directions.shape[-1]} at {hook.name}, whose width is "
            f"{activation.shape[-1]}"
        )


def _per_row(x: Float[Tensor, "*batch width"], activation: Tensor, hook: Any) -> Tensor:
    """[width] as it is; [batch, width] with axes for what lies between batch and width."""
    x = x.to(activation)
    if x.ndim == 1:
        return x
    if len(x) not in (1, len(activation)):
        raise ValueError(
            f"directions or coefficients for {len(x)} rows, but {hook.name} has {len(activation)}; "
            "give one for all, or one a row"
        )
    return x.reshape(len(x), *[1] * (activation.ndim - 2), x.shape[-1])
