"""The cells of a patching sweep: which layer, positions and head each one patches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.hooks.selection import HEAD_SITES, PATTERN_SITES, SITES
from lens_audio.inputs import AudioPrompt

# One selection of positions: a group, integers, a slice or a boolean mask.
Selection = str | int | slice | Sequence[int] | Sequence[str] | Tensor
Positions = Selection | Mapping[str, Selection]


@dataclass(frozen=True)
class Site:
    """A hook point in every layer of the decoder or of the audio encoder."""

    name: str
    in_encoder: bool
    suffix: str
    n_layers: int
    n_heads: int | None  # None: a site without heads
    position_axis: int

    @classmethod
    def of(cls, model: Any, name: str) -> "Site":
        """The site, checked against the model.

        Raises:
            ValueError: for a name that is no site.
        """
        name = "resid_pre" if name == "audio_embed" else name
        prefix, _, short = name.rpartition(".")
        if short not in SITES or prefix not in ("", "audio_encoder"):
            raise ValueError(
                f"no site is called {name!r}; there are audio_embed, {', '.join(SITES)}"
            )
        in_encoder = prefix == "audio_encoder"
        cfg = model.cfg.audio if in_encoder else model.cfg
        last = SITES[short].rsplit(".", 1)[-1]
        n_heads = None
        if last in HEAD_SITES + PATTERN_SITES:
            n_heads = cfg.kv_heads if last in ("hook_k", "hook_v", "hook_rot_k") else cfg.n_heads
        axis = 2 if last in PATTERN_SITES else 1
        return cls(name, in_encoder, SITES[short], cfg.n_layers, n_heads, axis)

    def hook_name(self, layer: int) -> str:
        return f"{'audio_encoder.' if self.in_encoder else ''}blocks.{layer}.{self.suffix}"


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
        return tuple(len(labels) for labels in self.axes.values())


def make_grid(
    site: Site,
    masks: dict[str, Bool[Tensor, "#example pos"]],
    position_axis: str | None,
    layers: Iterable[int] | None,
    heads: str | int | Iterable[int] | None,
) -> Grid:
    """All combinations of layers, position selections and heads.

    Raises:
        ValueError: for an empty axis, layers or heads out of range, heads at a site without.
    """
    chosen = _in_range(layers, site.n_layers, "layer")
    axes = {"layer": [str(layer) for layer in chosen]}
    if position_axis is not None:
        axes[position_axis] = list(masks)
    numbers: list[int | None] = [None]
    if heads is not None:
        if site.n_heads is None:
            raise ValueError(f"{site.name!r} has no heads; leave out heads=")
        if isinstance(heads, str) and heads != "each":
            raise ValueError(f"heads must be 'each', numbers or None, not {heads!r}")
        some = None if isinstance(heads, str) else heads
        numbers = list(_in_range(some, site.n_heads, "head"))
        axes["head"] = [str(head) for head in numbers]
    cells = []
    for i, layer in enumerate(chosen):
        for j, mask in enumerate(masks.values()):
            for k, head in enumerate(numbers):
                index = (i, *([j] if position_axis else []), *([k] if heads is not None else []))
                cells.append(Cell(index, layer, mask, head))
    return Grid(axes, cells)


def position_masks(
    positions: Positions, prompt: Any, labels: list[str], length: int
) -> tuple[dict[str, Bool[Tensor, "#example pos"]], str | None]:
    """A mask for every selection, and the name of the axis they span (None for a single one)."""
    if isinstance(positions, str) and positions == "each":
        each = torch.eye(length, dtype=torch.bool)
        return {label: each[i][None] for i, label in enumerate(labels)}, "position"
    if isinstance(positions, Mapping):
        if not positions:
            raise ValueError("no groups of positions were given")
        return {name: as_mask(sel, prompt, length) for name, sel in positions.items()}, "group"
    return {"": as_mask(positions, prompt, length)}, None


def as_mask(selection: Selection, prompt: Any, length: int) -> Bool[Tensor, "#example pos"]:
    """One selection as a mask over a prompt's positions (or an encoder's frames, without a prompt).

    Raises:
        ValueError: for a selection of nothing, or positions outside the prompt.
    """
    mask = torch.zeros(1, length, dtype=torch.bool)
    if isinstance(selection, str):
        mask = _group(selection, prompt, length)
    elif isinstance(selection, Tensor) and selection.dtype == torch.bool:
        mask = torch.atleast_2d(selection).cpu()
        if mask.shape[1] != length:
            raise ValueError(f"a mask of {mask.shape[1]} positions for a prompt of {length}")
    elif isinstance(selection, slice):
        mask[:, selection] = True
    else:
        wanted = torch.as_tensor(selection).cpu().reshape(-1)
        outside = wanted[(wanted < -length) | (wanted >= length)]
        if len(outside):
            raise ValueError(f"position {int(outside[0])} is outside the {length} positions")
        mask[:, wanted.long()] = True
    if not bool(mask.any(1).all()):
        raise ValueError(
            "a selection of positions is empty in some row; each must select one or more"
        )
    return mask


def _group(group: str, prompt: Any, length: int) -> Bool[Tensor, "#example pos"]:
    if group == "all":
        return torch.ones(1, length, dtype=torch.bool)
    if prompt is None:
        raise ValueError(f"the encoder's frames have no group {group!r}; only 'all'")
    real, audio = prompt.attention_mask.cpu(), prompt.audio_mask.cpu()
    if group == "last":
        places = torch.arange(length)
        return places == (real * places).argmax(1, keepdim=True)
    groups = {"audio": audio, "text": real & ~audio}
    if group not in groups:
        raise ValueError(f"no group is called {group!r}; there are all, last, audio, text")
    return groups[group]


def _in_range(chosen: int | Iterable[int] | None, n: int, what: str) -> list[int]:
    numbers = list(range(n)) if chosen is None else _list_of(chosen)
    if not numbers:
        raise ValueError(f"an empty selection of {what}s")
    for number in numbers:
        if not -n <= number < n:
            raise ValueError(f"{what} {number} does not exist; there are {n}")
    return [number % n for number in numbers]


def _list_of(chosen: int | Iterable[int]) -> list[int]:
    return [chosen] if isinstance(chosen, int) else [int(number) for number in chosen]


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
