"""How the activations of a source run come to stand at the positions of a base run.

Where both runs have the same positions, they are taken as they are. In a pair of "group" (see
`lens_audio.data.pair`), a group of positions takes the activations of the same group in the source:
position by position where both have as many, else their mean at every position.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.analysis.patching.cells import check_last_positions, check_prompts
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Group, Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Site

# Why a site cannot be patched group by group.
NOT_BY_GROUP = {
    "pattern": "its keys are the positions of its own prompt",
    "attn_scores": "its keys are the positions of its own prompt",
    "rot_q": "it is rotated by the position in its own prompt; patch q",
    "rot_k": "it is rotated by the position in its own prompt; patch k",
}


@dataclass(frozen=True)
class Alignment:
    """Where a base run's positions take their activations from, group by group."""

    groups: dict[str, Bool[Tensor, "row pos"]]  # the base's, in reading order
    windows: list[str]  # those that are windows of the audio
    averaged: list[str]  # those of which a mean is patched
    names: dict[str, list[str]]  # what else selects groups: "all", "audio", "text"
    index: Int[Tensor, "row pos"]  # into the source's positions, then the means of its groups
    weights: Float[Tensor, "row group source_pos"]  # of those means

    @classmethod
    def of(cls, groups: Mapping[str, Group], windows: Sequence[str], direction: str) -> "Alignment":
        """Of a pair's groups, by name; with "denoise" the clean prompt is the source."""
        sides = [tuple(group) for group in groups.values()]  # (source, base)
        if direction == "noise":
            sides = [(source, base) for base, source in sides]
        n_source = sides[0][0].shape[1]
        index = torch.zeros(sides[0][1].shape, dtype=torch.long)
        for number, (source, base) in enumerate(sides):
            for row in range(len(base)):
                places = source[row].nonzero().flatten()
                as_many = len(places) == int(base[row].sum())
                index[row, base[row]] = places if as_many else n_source + number
        members = torch.stack([source for source, _ in sides], dim=1).float()
        by_name = {name: base for name, (_, base) in zip(groups, sides, strict=True)}
        present = [name for name in windows if name in groups]
        names = {"all": list(groups)}
        if len(present) < len(groups):  # in the encoder all groups are windows
            names["text"] = [name for name in groups if name not in present]
        if "text" in names and present:
            names["audio"] = present
        averaged = [name for name, group in groups.items() if group.is_averaged]
        weights = members / members.sum(-1, keepdim=True).clamp(min=1)
        return cls(by_name, present, averaged, names, index, weights)

    def __call__(
        self, source: Float[Tensor, "row source_pos *rest"]
    ) -> Float[Tensor, "row pos *rest"]:
        """The source's activations at the base's positions; where no group is, the first one's."""
        flat = source.flatten(2)
        precise = torch.promote_types(flat.dtype, torch.float32)
        means = self.weights.to(flat.device, precise) @ flat.to(precise)
        both = torch.cat([flat, means.to(flat.dtype)], dim=1)
        rows = torch.arange(len(flat), device=flat.device)[:, None]
        return both[rows, self.index.to(flat.device)].unflatten(2, source.shape[2:])

    def select(self, names: Any) -> Bool[Tensor, "row pos"]:
        """The base's positions in one group, by its name, or in several.

        Raises:
            ValueError: for what is no name of a group, with those that there are.
        """
        chosen = [names] if isinstance(names, str) else names
        if not isinstance(chosen, Sequence) or not all(isinstance(name, str) for name in chosen):
            raise ValueError(
                f"positions of a 'group' pair are names of its groups, not {names!r}: position 5 of "
                f"one prompt is not position 5 of the other. There are {self._known}"
            )
        if not chosen:
            raise ValueError(f"an empty selection of groups; there are {self._known}")
        mask = torch.zeros_like(self.index, dtype=torch.bool)
        for name in chosen:
            if name == "each":
                raise ValueError(
                    "the positions of a 'group' pair do not correspond one by one, so there is no "
                    f"'each'; leave positions out for every group, or name some: {self._known}"
                )
            if name not in self.groups and name not in self.names:
                raise ValueError(f"no group is called {name!r}; there are {self._known}")
            for member in self.names.get(name, [name]):
                mask |= self.groups[member]
        return mask

    def cells(self, positions: Any, audio_only: bool) -> tuple[dict[str, Tensor], str | None]:
        """A sweep's masks by name, and the name of their axis (None for a single selection).

        Args:
            positions: None for every group; names of groups or a mapping to such names, each a
                cell; or one name, patched whole in every cell.
            audio_only: by default, windows alone.
        """
        if positions is None:
            positions = self.windows if audio_only else list(self.groups)
        if isinstance(positions, str):
            return {"": self.select(positions)}, None
        if isinstance(positions, Mapping):
            if not positions:
                raise ValueError("no groups of positions were given")
            return {name: self.select(some) for name, some in positions.items()}, "group"
        self.select(positions)
        return {name: self.select(name) for name in positions}, "group"

    @property
    def _known(self) -> str:
        return ", ".join([*self.names, *self.groups])


def summed(
    effects: Float[Tensor, "layer row pos *head"], masks: Mapping[str, Bool[Tensor, "row pos"]]
) -> Float[Tensor, "layer row group *head"]:
    """The sum over the positions of each group."""
    members = torch.stack(list(masks.values()), dim=1).to(effects)
    return torch.einsum("lrp...,rgp->lrg...", effects, members)


@dataclass(frozen=True)
class BaseAndSource:
    """The prompt that is patched, the one that patches come from, and how they line up."""

    base: AudioPrompt
    source: AudioPrompt
    pair: Pair
    decoder: Alignment | None = None  # None: position by position
    encoder: Alignment | None = None

    @classmethod
    def of(
        cls,
        model: HookedAudioTransformer,
        clean: AudioPrompt | Pair,
        corrupted: AudioPrompt | None,
        direction: str,
    ) -> "BaseAndSource":
        """Of two prompts, or of a pair in the place of the clean one.

        Raises:
            ValueError: for a pair and a corrupted prompt beside it, a prompt alone, prompts whose
                positions do not correspond, padding on the right, another direction, or hooks on
                the model.
        """
        if direction not in ("denoise", "noise"):
            raise ValueError(f"direction must be 'denoise' or 'noise', not {direction!r}")
        pair = as_pair(clean, corrupted)
        prompts = (pair.corrupted, pair.clean) if direction == "denoise" else (
            pair.clean, pair.corrupted,
        )  # fmt: skip
        if not pair.groups:
            check_prompts(model, pair.clean, pair.corrupted)
            return cls(*prompts, pair)
        check_last_positions(pair.clean, pair.corrupted)
        model.check_no_hooks()
        decoder = Alignment.of(pair.groups, pair.windows, direction)
        has_encoder = pair.frames and len({_n_spectrograms(prompt) for prompt in prompts}) == 1
        encoder = Alignment.of(pair.frames, pair.windows, direction) if has_encoder else None
        return cls(*prompts, pair, decoder, encoder)

    def check_site(self, site: Site) -> None:
        """Raises ValueError for a site that cannot be patched group by group."""
        if self.pair.fit == "group" and site.short in NOT_BY_GROUP:
            raise ValueError(f"{site.name!r} has no 'group' patches: {NOT_BY_GROUP[site.short]}")
        if self.pair.frames and self.encoder is None and site.in_block().in_encoder:
            clean, corrupted = (_n_spectrograms(p) for p in (self.pair.clean, self.pair.corrupted))
            raise ValueError(
                f"{site.name!r} has no patches here: to the encoder, the rows of clean are {clean} "
                f"spectrograms and those of corrupted {corrupted}. Patch at a site of the decoder, or "
                "make the recordings of one length (fit='pad' or 'crop')"
            )

    def alignment(self, in_encoder: bool) -> Alignment | None:
        """Of the decoder's positions, or of the encoder's frames."""
        return self.encoder if in_encoder else self.decoder

    def about(self, in_encoder: bool, masks: Iterable[Tensor]) -> dict[str, Any]:
        """What a result says of how the runs line up, where these positions were patched."""
        alignment = self.alignment(in_encoder)
        if alignment is None:
            return {} if self.pair.fit is None else {"fit": self.pair.fit}
        patched = torch.stack(list(masks)).any(0)
        averaged = [n for n in alignment.averaged if bool((alignment.groups[n] & patched).any())]
        return {"fit": "group", "window": self.pair.window, "averaged": averaged}

    def at_base(self, activations: Any) -> dict[str, Tensor]:
        """The source run's activations, a cache or by hook name, at the base run's positions."""
        aligned = {}
        for name, activation in activations.items():
            alignment = self.alignment(Site(name).in_encoder)
            aligned[name] = activation if alignment is None else alignment(activation)
        return aligned


def _n_spectrograms(prompt: AudioPrompt) -> tuple[int, ...]:
    """Of each row."""
    return tuple(len(prompt.spectrograms_of(row)) for row in range(len(prompt)))


def as_pair(clean: AudioPrompt | Pair, corrupted: AudioPrompt | None) -> Pair:
    """The pair of two prompts, or the one that stands in the place of both.

    Raises:
        ValueError: for a pair and a corrupted prompt beside it, or a prompt alone.
    """
    if isinstance(clean, Pair):
        if corrupted is not None:
            raise ValueError(
                "a pair brings its corrupted prompt: leave that out, and give what follows by name"
            )
        return clean
    if corrupted is None:
        raise ValueError("a clean prompt alone: give the corrupted one, or a pair of la.data.pair")
    return Pair(clean, corrupted)


def not_given(**arguments: Any) -> ValueError:
    """The error for arguments that only a pair in the place of two prompts makes look optional."""
    names = [name for name, value in arguments.items() if value is None]
    return ValueError(
        f"no {' and no '.join(names)} was given; beside a pair, arguments go by their names"
    )
