"""Steering vectors: directions by layer at a site, with where they come from.

`mean_difference` follows Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition",
arXiv 2312.06681; `pca_of_differences` follows Zou et al., "Representation Engineering",
arXiv 2310.01405.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio import fingerprint, hooks
from lens_audio.checkpoints.hf import model_inside, sizes_of
from lens_audio.data.collect import at_positions
from lens_audio.hooks.positions import Positions
from lens_audio.hooks.selection import Hook
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Site, last_positions
from lens_audio.steering import vectors_on_transformers
from lens_audio.steering.storage import (
    check_fits,
    damage_named,
    facts_of,
    load,
    model_facts,
    save,
)

KIND = "SteeringVector"


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """One direction a layer, [d_model], at one site."""

    directions: dict[int, Float[Tensor, " d_model"]]
    site: str = "resid_post"
    provenance: dict[str, Any] = field(default_factory=dict)  # model, data, method, versions

    def __post_init__(self) -> None:
        if not self.directions:
            raise ValueError("a steering vector needs a direction for at least one layer")
        widths = {len(direction) for direction in self.directions.values()}
        if len(widths) > 1:
            raise ValueError(f"the directions have different widths: {sorted(widths)}")
        if not all(bool(d.isfinite().all()) for d in self.directions.values()):
            raise ValueError("a direction has NaN or infinite entries")
        if min(self.directions) < 0:
            raise ValueError("layers of a steering vector count from 0")

    def __repr__(self) -> str:
        norms = ", ".join(
            f"layer {l} norm {float(d.norm()):.3g}" for l, d in self.directions.items()
        )
        how = ", ".join(
            str(self.provenance[k]) for k in ("method", "data") if self.provenance.get(k)
        )
        return f"SteeringVector({self.site}, {norms}{how and '; ' + how})"

    @classmethod
    def supplied(
        cls,
        direction: Float[Tensor, " d_model"],
        layer: int,
        site: str = "resid_post",
        **provenance: Any,
    ) -> "SteeringVector":
        """A direction made elsewhere."""
        return cls({layer: direction}, site, {"method": "supplied", **provenance})

    def hooks(
        self,
        coefficient: float | int | Float[Tensor, " batch"] = 1.0,
        positions: Positions = "last",
    ) -> list[Hook]:
        """Hooks that add coefficient · direction in each layer: `lens_audio.hooks.steer`."""
        by_layer = self._hooks_by_layer(coefficient, positions)
        return [pair for pairs in by_layer.values() for pair in pairs]

    @contextmanager
    def attach(
        self, model: Any, coefficient: float | int = 1.0, positions: Positions = "last"
    ) -> Iterator[Any]:
        """Inside, every run of the model is steered, at every step of `generate` too.

        Raises:
            ValueError: for a model of another width, or without these layers.
        """
        self.check(model)
        with model.hooks(fwd_hooks=self.hooks(coefficient, positions)):
            yield model

    def attach_to_hf(
        self, hf_model: Any, coefficient: float | int = 1.0, positions: Positions = "last"
    ) -> AbstractContextManager[Any]:
        """The same on a plain transformers model: `hf_model(...)` and `hf_model.generate(...)`.

        Args:
            hf_model: a transformers model of a family that transformers has, such as
                `Qwen2AudioForConditionalGeneration`.

        Raises:
            ValueError: for another model, one that lacks these layers or has another width, and a site
                that is not in the residual stream of the decoder; while attached, for embeddings in
                the place of tokens, and a cache that was filled before.
        """
        vectors_on_transformers.check_site(self.site)
        self._check(sizes_of(model_inside(hf_model)))
        return vectors_on_transformers.attached(
            hf_model, self.site, self._hooks_by_layer(coefficient, positions)
        )

    def scaled(self, factor: float | int) -> "SteeringVector":
        """This vector with every direction multiplied; its provenance says so.

        Raises:
            ValueError: for a factor that is not finite.
        """
        if not math.isfinite(factor):
            raise ValueError(f"the factor must be a finite number, not {factor}")
        directions = {layer: factor * direction for layer, direction in self.directions.items()}
        scale = self.provenance.get("scaled_by", 1.0) * factor
        return SteeringVector(directions, self.site, {**self.provenance, "scaled_by": scale})

    def random_control(self, model: Any = None, seed: int = 0) -> "SteeringVector":
        """A vector of random directions (Gaussian), each as long as the one in its place."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            layer: torch.randn(len(d), generator=generator).to(d)
            for layer, d in self.directions.items()
        }
        directions = {l: x / x.norm() * self.directions[l].norm() for l, x in drawn.items()}
        facts = {**self.provenance, "method": "random, of equal length", "seed": seed}
        return SteeringVector(directions, self.site, facts)

    def check(self, model: Any) -> None:
        """Refuse a model that these directions do not fit.

        Raises:
            ValueError: for another width, a layer that it lacks, or a site that is no site or has no
                layers.
        """
        self._check(model.cfg)

    def _check(self, cfg: Any) -> None:
        check_fits(self.provenance.get("model") or {}, facts_of(cfg), "the steering vector")
        site = Site.of(self.site)
        d_model = (cfg.audio if site.in_encoder else cfg).d_model
        width = len(next(iter(self.directions.values())))
        site.layers(cfg, self.directions)
        # Sites of other widths than the residual stream's are checked by the hook as it runs.
        if site.is_residual and width != d_model:
            raise ValueError(f"the direction has width {width}, this model {d_model}")

    def _hooks_by_layer(
        self, coefficient: float | int | Float[Tensor, " batch"], positions: Positions
    ) -> dict[int, list[Hook]]:
        options: dict[str, Any] = {"positions": positions, "coefficient": coefficient}
        return {
            layer: hooks.steer(direction, site=self.site, layer=layer, **options)
            for layer, direction in self.directions.items()
        }

    def facts(self) -> dict[str, Any]:
        """What it is: the site, and the direction in each layer by its hash."""
        return {"site": self.site, "directions": fingerprint.as_json(self.directions)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; the provenance is in its metadata."""
        tensors = {str(layer): direction for layer, direction in self.directions.items()}
        save(path, KIND, tensors, {"site": self.site, "provenance": self.provenance})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None) -> "SteeringVector":
        """Read a file that `save` wrote; with `model`, on its device and checked against it.

        Raises:
            ValueError: for another file, or a model that the vector does not fit.
        """
        tensors, facts = load(path, KIND)
        device = "cpu" if model is None else model.device
        with damage_named(path):
            layers = sorted(tensors, key=int)
            directions = {int(layer): tensors[layer].to(device) for layer in layers}
            vector = cls(directions, facts["site"], facts["provenance"])
        if model is not None:
            vector.check(model)
        return vector


def mean_difference(
    model: Any,
    towards: Iterable[AudioPrompt],
    away_from: Iterable[AudioPrompt],
    *,
    layers: Sequence[int],
    site: str = "resid_post",
    data: str | None = None,
) -> SteeringVector:
    """Mean activation over one set of prompts minus the mean over another, at the last position.

    Args:
        towards, away_from: prompts or batches of them; the sets need not have the same size.
        layers: counted from 0.
        data: what the prompts are, for the provenance.

    Raises:
        ValueError: for an empty set.
    """
    means = [
        activations(model, prompts, layers, site).double().mean(0)
        for prompts in (towards, away_from)
    ]
    found = (means[0] - means[1]).float()
    return _vector(model, found, layers, site, "mean difference", data)


def pca_of_differences(
    model: Any,
    towards: Iterable[AudioPrompt],
    away_from: Iterable[AudioPrompt],
    *,
    layers: Sequence[int],
    site: str = "resid_post",
    data: str | None = None,
) -> SteeringVector:
    """First principal axis of the pairwise differences, about zero, at the last position.

    It has length 1 and points the way of the mean difference.

    Raises:
        ValueError: for sets of different size, or an empty one.
    """
    first, second = (activations(model, p, layers, site).double() for p in (towards, away_from))
    if len(first) != len(second):
        raise ValueError(f"differences need pairs: {len(first)} and {len(second)} prompts")
    differences = first - second
    axes = [torch.linalg.svd(d, full_matrices=False).Vh[0] for d in differences.unbind(1)]
    found = torch.stack(axes)
    along = (found * differences.mean(0)).sum(1, keepdim=True)
    found = torch.where(along < 0, -found, found).float()
    return _vector(model, found, layers, site, "PCA of differences", data)


@torch.no_grad()
def activations(
    model: Any, prompts: Iterable[AudioPrompt], layers: Sequence[int], site: str
) -> Float[Tensor, "prompt layer d_model"]:
    """A site's activations at each prompt's last position, on the CPU.

    Raises:
        ValueError: for no prompts, no layers, a site with heads, or hooks set on the model.
    """
    if any(point.has_hooks() for point in model.hook_dict.values()):  # a bridge's, too
        raise ValueError(
            "hooks are set on the model, and the vector would be of what they make of it"
        )
    prompts = [prompts] if isinstance(prompts, AudioPrompt) else list(prompts)
    if not prompts or not layers:
        raise ValueError("give at least one prompt and one layer")
    names = [name for name in hooks.hook_names(site, list(layers)) if isinstance(name, str)]
    rows = []
    for prompt in prompts:
        _, cache = model.run_with_cache(prompt, names_filter=names, return_type=None)
        last = last_positions(prompt.attention_mask.to(model.device))
        found = [cache[name] for name in names]
        if found[0].ndim != 3:
            raise ValueError(f"{site!r} is no [batch, pos, width] site; take one without heads")
        rows.append(torch.stack([at_positions(x, last) for x in found], 1).float().cpu())
    return torch.cat(rows)


def _vector(
    model: Any,
    found: Float[Tensor, "layer d_model"],
    layers: Sequence[int],
    site: str,
    method: str,
    data: str | None,
) -> SteeringVector:
    provenance = {
        "model": model_facts(model), "method": method, "data": data, "versions": fingerprint.versions()
    }  # fmt: skip
    directions = {int(l): d.to(model.device) for l, d in zip(layers, found, strict=True)}
    return SteeringVector(directions, site, provenance)
