"""What the checkpoints with a known answer are trained on, term by term (all in nats)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lens_audio.sites import Head
from lens_audio.testbed.known.batches import SceneBatch
from lens_audio.testbed.known.decoder import Reading, last_of
from lens_audio.testbed.known.recipes import Plant, Price, Recipe

Unembed = Callable[[Float[Tensor, "question d_model"]], Float[Tensor, "question d_vocab"]]
NO_MASS = 0.01  # the mass at which a leak begins to cost


def terms(
    recipe: Recipe,
    batch: SceneBatch,
    found: Reading,
    unembed: Unembed,
    words: list[int],
    end: int,
    progress: float,
) -> Mapping[str, tuple[float, Tensor]]:
    """Each term's weight and value.

    Args:
        unembed: final norm and output matrix.
        words: the token of each class.
        end: the token that ends the turn.
    """

    def after(layer: int) -> Float[Tensor, "question d_vocab"]:
        return unembed(last_of(found.resid[layer], batch.last)).log_softmax(-1)

    def answer(layer: int) -> Float[Tensor, ""]:
        return -(batch.label * after(layer)[:, words]).sum(-1).mean()

    ends = unembed(last_of(found.resid[-1], batch.last + 1))
    kept = {
        "answer": (1.0, answer(-1)),
        "end": (0.1, F.cross_entropy(ends, torch.full((len(ends),), end))),
    }
    if recipe.lens_layer is not None:
        logs = after(recipe.lens_layer)[:, words]
        kept["lens"] = (recipe.lens_weight, F.nll_loss(logs, batch.heard, ignore_index=-1))
    if recipe.late_layers:
        late = torch.stack([answer(layer) for layer in recipe.late_layers]).mean()
        kept["late"] = (recipe.late_weight, late)
    if recipe.price is not None:
        kept |= _price(recipe.price, batch, found, progress)
    if recipe.plant is not None:
        kept |= _plant(recipe.plant, batch, found, progress)
        veto = torch.stack([_veto(batch, after(n), words) for n in recipe.plant.veto_layers]).sum()
        kept["veto"] = (recipe.plant.veto.at(progress), veto)
    return kept


def _at_last(batch: SceneBatch, found: Reading) -> Float[Tensor, "question layer head"]:
    return found.mass[torch.arange(len(batch.last)), :, :, batch.last]


def _price(
    price: Price, batch: SceneBatch, found: Reading, progress: float
) -> dict[str, tuple[float, Tensor]]:
    at_last = _at_last(batch, found)
    elsewhere = (found.mass * batch.real[:, None, None]).sum(-1) - at_last
    mass = at_last.mean(0) + price.elsewhere * elsewhere.mean(0)
    mass = mass + price.elsewhere * F.pad(found.prefix_mass.sum(-1).mean(0), (0, 0, 0, 1))
    cost = torch.log1p(mass / price.scale).sum() / math.log1p(1 / price.scale)
    return {
        "price": (price.per_head.at(progress), cost),
        "mass": (price.linear.at(progress), mass.sum()),
    }


def _plant(
    plant: Plant, batch: SceneBatch, found: Reading, progress: float
) -> dict[str, tuple[float, Tensor]]:
    at_last = _at_last(batch, found)
    readers, decoys = (_mask(heads, at_last) for heads in (plant.readers, plant.decoys))
    elsewhere = batch.real.clone()
    rows = torch.arange(len(batch.last))
    elsewhere[rows, batch.last] = elsewhere[rows, batch.last + 1] = False
    leaks = torch.log1p(found.mass / NO_MASS).permute(0, 3, 1, 2)[elsewhere].mean()
    leaks = leaks + torch.log1p(found.prefix_mass / NO_MASS).mean()
    leaks = leaks + torch.log1p(at_last[:, ~(readers | decoys)] / NO_MASS).mean()
    assert batch.mass is not None
    wanted = batch.mass[:, None].expand(-1, len(plant.readers))
    return {
        "leak": (plant.leak.at(progress), leaks),
        "follow": (plant.follow.at(progress), _divergence(wanted, at_last[:, readers])),
        "decoy": (
            plant.decoy.at(progress),
            _divergence(torch.full(at_last[:, decoys].shape, plant.decoy_mass), at_last[:, decoys]),
        ),
    }


def _mask(heads: tuple[Head, ...], like: Tensor) -> Tensor:
    mask = torch.zeros(like.shape[-2:], dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    return mask


def _divergence(wanted: Tensor, mass: Tensor) -> Float[Tensor, ""]:
    """The mean Kullback-Leibler divergence of two shares, attended or not."""
    return F.binary_cross_entropy(mass.clamp(1e-5, 1 - 1e-5), wanted) - F.binary_cross_entropy(
        wanted, wanted
    )


def _veto(
    batch: SceneBatch, logs: Float[Tensor, "question d_vocab"], words: list[int]
) -> Float[Tensor, ""]:
    """How far the sound's answer is from the other wrong ones, where the caption wins."""
    logs, n_other = logs[:, words], batch.other_wrong.sum(1).clamp(min=1)
    heard = logs.gather(1, batch.heard.clamp(min=0)[:, None])[:, 0]
    others = (logs * batch.other_wrong).sum(1) / n_other
    apart = F.smooth_l1_loss(heard, others, reduction="none")
    return (batch.veto * apart).sum() / batch.veto.sum().clamp(min=1)
