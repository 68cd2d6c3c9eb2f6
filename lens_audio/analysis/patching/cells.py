"""The cells of a patching sweep: which layer, positions and head or neurons each one patches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import (
    Heads,
    Neurons,
    Site,
    as_integers,
    check_neurons,
    counted,
    neuron_mask,
    no_neurons,
)

# "each", or some, each a cell; or selections by name.
SweptNeurons = str | Neurons | Mapping[str, Neurons]


@dataclass(frozen=True)
class Cell:
    """One patch."""

    index: tuple[int, ...]  # its place in the result: layer, then position, head, neuron if swept
    layer: int
    positions: Bool[Tensor, "#example pos"]
    head: int | None = None
    neurons: tuple[int, ...] | None = None  # those patched, None for all

    def facts(self) -> dict[str, Any]:
        """What it is; neurons where they are chosen, so that sweeps begun before are resumed."""
        chosen = {} if self.neurons is None else {"neurons": self.neurons}
        told = {"index": self.index, "layer": self.layer, "positions": self.positions}
        return {**told, "head": self.head, **chosen}

    @property
    def part(self) -> tuple[int, ...] | None:
        """The head, or the neurons; None for all of the activation."""
        return self.neurons if self.head is None else (self.head,)

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
    neurons: Mapping[str, list[int]] | None = None,
) -> Grid:
    """All combinations of layers, position selections, and heads or neurons.

    Args:
        layers, heads, neurons: counted from 0; neurons by the labels of their cells.
    """
    axes = {"layer": [str(layer) for layer in layers]}
    if position_axis is not None:
        axes[position_axis] = list(masks)
    if heads is not None:
        axes["head"] = [str(head) for head in heads]
    if neurons is not None:
        axes[neuron_axis_name(neurons)] = list(neurons)
    parts: list[dict[str, Any]] = [{}]  # of an activation, each a cell; no site has both
    if heads is not None:
        parts = [{"head": head} for head in heads]
    elif neurons is not None:
        parts = [{"neurons": tuple(some)} for some in neurons.values()]
    cells = []
    for i, layer in enumerate(layers):
        for j, mask in enumerate(masks.values()):
            for k, part in enumerate(parts):
                index = (i, *([j] if position_axis else []), *([k] if part else []))
                cells.append(Cell(index, layer, mask, **part))
    return Grid(axes, cells)


def neuron_axis_name(neurons: Mapping[str, list[int]]) -> str:
    """Of a result's axis: "neuron" where each entry is the neuron of that number."""
    each = all([str(one) for one in some] == [label] for label, some in neurons.items())
    return "neuron" if each else "neuron group"


def swept_neurons(site: Site, neurons: SweptNeurons, cfg: Any) -> dict[str, list[int]] | None:
    """The neurons of each cell, counted from 0, by its label.

    Args:
        neurons: "each", or some, each a cell; or a mapping of names to selections, each a cell.

    Raises:
        ValueError: for neurons at a site without, a selection of nothing, or neurons that do not
            exist.
    """
    if neurons is None:
        return None
    n_neurons = site.n_neurons(cfg)
    if n_neurons is None:
        raise no_neurons(site)
    if isinstance(neurons, Mapping):
        if not neurons:
            raise ValueError("no groups of neurons were given")
        return {str(n): _neurons_of(site, some, n_neurons) for n, some in neurons.items()}
    every = isinstance(neurons, str) and neurons == "each"
    chosen = range(n_neurons) if every else _neurons_of(site, neurons, n_neurons)
    return {str(neuron): [neuron] for neuron in chosen}


def _neurons_of(site: Site, neurons: Any, n: int) -> list[int]:
    """One selection, in the order given where it is of numbers."""
    chosen = check_neurons(neurons, site)
    if chosen is None:
        return list(range(n))
    if isinstance(chosen, Tensor) and chosen.dtype != torch.bool:
        return list(dict.fromkeys(counted(chosen, n, "neuron", repr(site.name))))
    return neuron_mask(chosen, n).nonzero().flatten().tolist()


def neuron_blocks(
    model: HookedAudioTransformer, size: int, site: str = "mlp_post"
) -> dict[str, range]:
    """Consecutive blocks of so many neurons, the last one what is left, labelled "0-63".

    Raises:
        ValueError: for a size below 1, or a site without neurons.
    """
    where = Site.of(site)
    n_neurons = where.n_neurons(model.cfg)
    if n_neurons is None:
        raise no_neurons(where)
    if size < 1:
        raise ValueError(f"a block has at least 1 neuron, not {size}")
    starts = range(0, n_neurons, size)
    blocks = [range(start, min(start + size, n_neurons)) for start in starts]
    return {f"{block[0]}-{block[-1]}": block for block in blocks}


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
