"""The cells of a patching sweep: which layer, positions and head each one patches."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Heads, Site, as_integers, counted


@dataclass(frozen=True)
class Cell:
    """One patch."""

    index: tuple[int, ...]  # its place in the result: layer, then position and head if swept
    layer: int
    positions: Bool[Tensor, "#example pos"]
    head: int | None

    @property
    def first_position(self) -> int:
        """Nothing before it changes."""
        return int(self.positions.any(0).nonzero()[0])


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, with their labels, and its cells in order."""

    axes: dict[str, list[str]]
    cells: list[Cell]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many entries each axis has, in order."""
        return tuple(len(labels) for labels in self.axes.values())


def make_grid(
    masks: dict[str, Bool[Tensor, "#example pos"]],
    position_axis: str | None,
    layers: list[int],
    heads: list[int] | None,
) -> Grid:
    """All combinations of layers, position selections and heads.

    Args:
        layers, heads: counted from 0.
    """
    axes = {"layer": [str(layer) for layer in layers]}
    if position_axis is not None:
        axes[position_axis] = list(masks)
    if heads is not None:
        axes["head"] = [str(head) for head in heads]
    cells = []
    for i, layer in enumerate(layers):
        for j, mask in enumerate(masks.values()):
            for k, head in enumerate([None] if heads is None else heads):
                index = (i, *([j] if position_axis else []), *([k] if heads is not None else []))
                cells.append(Cell(index, layer, mask, head))
    return Grid(axes, cells)


def swept_heads(site: Site, heads: str | Heads, cfg: Any) -> list[int] | None:
    """The heads that are each a cell, counted from 0.

    Raises:
        ValueError: for heads at a site without, heads that do not exist, or (layer, head) pairs.
    """
    if heads is None:
        return None
    n_heads = site.n_heads(cfg)
    if n_heads is None:
        raise ValueError(f"{site.name!r} has no heads; leave out heads=")
    if isinstance(heads, str) and heads == "each":
        return list(range(n_heads))
    if as_integers(heads, "heads").ndim == 2:
        raise ValueError(
            "a sweep has a cell for every layer and head, so it does not take (layer, head) pairs: give "
            "layers= and heads=, or pass the pairs to path_patch(senders=...) or hooks.patch(heads=...)"
        )
    return counted(heads, n_heads, "head", repr(site.name))


def check_prompts(
    model: HookedAudioTransformer, clean: AudioPrompt, corrupted: AudioPrompt
) -> None:
    """Refuse prompts whose positions do not correspond, or do not end in a real token.

    Raises:
        ValueError: that, or hooks on the model.
    """
    if clean.tokens.shape != corrupted.tokens.shape:
        raise ValueError(
            f"clean has shape {tuple(clean.tokens.shape)}, corrupted "
            f"{tuple(corrupted.tokens.shape)}: positions do not correspond. {_ADVICE}"
        )
    for name in ("audio_mask", "attention_mask"):
        if not torch.equal(getattr(clean, name).cpu(), getattr(corrupted, name).cpu()):
            raise ValueError(
                f"clean and corrupted differ in their {name}; positions do not correspond. {_ADVICE}"
            )
    check_last_positions(clean, corrupted)
    model.check_no_hooks()


_ADVICE = (
    "Cut or pad the longer audio, or patch by groups: la.data.pair(clean, corrupted) with "
    "fit='crop', 'pad' or 'group'; or write texts of one length"
)


def check_last_positions(*prompts: AudioPrompt) -> None:
    """Raises ValueError for rows that end in padding."""
    if not all(bool(prompt.attention_mask[:, -1].all()) for prompt in prompts):
        raise ValueError("the metric reads the last position; pad on the left")
