"""Steering vectors on a plain transformers model, by torch forward hooks alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn as nn
from torch import Tensor

from lens_audio.checkpoints.hf import family_of_model, model_inside
from lens_audio.hooks.selection import Hook
from lens_audio.model.hook_point import HookPoint
from lens_audio.sites import Site
from lens_audio.steering.transformers_forwards import Forwards

# What a site is in a decoder layer of transformers: the module whose output it is, "" for the layer;
# to be added to resid_mid is to be added to what attention writes.
OUTPUT_OF = {"resid_mid": "self_attn", "attn_out": "self_attn", "mlp_out": "mlp", "resid_post": ""}
SITES_THERE = ("resid_pre", *OUTPUT_OF)


def check_site(site: str) -> None:
    """Refuse a site that forward hooks of transformers cannot add to.

    Raises:
        ValueError: naming those that they can.
    """
    where = Site.of(site)
    if where.in_encoder or not where.takes_layers or where.short not in SITES_THERE:
        raise ValueError(
            f"a transformers model cannot be steered at {site!r}, only at {', '.join(SITES_THERE)}: "
            "load it with HookedAudioTransformer.from_hf for other sites"
        )


@contextmanager
def attached(
    hf_model: Any, site: str, hooks_by_layer: Mapping[int, Sequence[Hook]]
) -> Iterator[Any]:
    """Inside, these hooks of our own models, which add at a site, act on a transformers model.

    Args:
        hf_model: a transformers model of a family that transformers has, such as
            `Qwen2AudioForConditionalGeneration`.
        site: one that `check_site` passes.

    Raises:
        ValueError: for another model.
    """
    inside = model_inside(hf_model)
    family, _ = family_of_model(inside)
    assert family.in_transformers is not None
    layers = inside.get_submodule(family.in_transformers.decoder).layers
    forwards, short = Forwards(inside), Site.of(site).short
    with ExitStack() as stack:

        def until_exit(handle: Any) -> None:
            stack.callback(handle.remove)

        until_exit(inside.register_forward_pre_hook(forwards.see, with_kwargs=True))
        for number, hooks in hooks_by_layer.items():
            layer = layers[number]
            for name, function in hooks:
                point = HookPoint()
                point.name, point.forward_info = str(name), forwards.info
                if short == "resid_pre":
                    until_exit(
                        layer.register_forward_pre_hook(_before(function, point), with_kwargs=True)
                    )
                else:
                    module = layer.get_submodule(OUTPUT_OF[short])
                    until_exit(module.register_forward_hook(_after(function, point)))
        yield hf_model


def _before(function: Any, point: HookPoint) -> Callable[..., tuple[tuple, dict[str, Any]]]:
    """A pre-hook that edits a layer's input."""

    def edit(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        if args:
            return (function(args[0], point), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": function(kwargs["hidden_states"], point)}

    return edit


def _after(function: Any, point: HookPoint) -> Callable[..., Tensor | tuple]:
    """A hook that edits a module's output."""

    def edit(module: nn.Module, args: tuple, output: Any) -> Tensor | tuple:
        if isinstance(output, tuple):
            return (function(output[0], point), *output[1:])
        return function(output, point)

    return edit
