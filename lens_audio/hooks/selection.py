"""Hooks by site and layer, and made definite for a model."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lens_audio.fingerprint import carrying
from lens_audio.sites import (
    SITES,
    HookName,
    Layers,
    Site,
    count_from_end,
    nothing_selected,
    what_exists,
)

__all__ = ["SITES", "Function", "Hook", "HookName", "hook_names", "on", "one_of"]

Function = Callable[..., Any]  # (activation, hook) -> a new activation, or None
Hook = tuple[HookName, Function]


def hook_names(site: str, layers: Layers = None) -> list[HookName]:
    """The hook names of a site in some layers; without layers, one function that selects all.

    Args:
        site: a short name ("z", "audio_encoder.resid_post"), or a hook name in full.
        layers: one layer or several; negative ones count from the last.

    Raises:
        ValueError: for an unknown site, no layers, or layers for a site outside the blocks.
    """
    return Site.of(site).names(layers)


def on(model: Any, fwd_hooks: Iterable[Hook]) -> list[Hook]:
    """The hooks with layers counted from the end made definite for `model`, every name checked.

    A TransformerBridge needs this. It does not tell hook functions where they are in a sequence:
    there positions are those of each forward, "last" is its last position, "audio", "text" and
    "generated" are refused, and padding on the right is not known. Its `hook_resid_mid` is only
    what the MLP reads; a change there is added to the block's output too, as if to the stream.

    Raises:
        ValueError: for a hook name the model does not have.
    """
    known = model.hook_dict
    first: list[Hook] = []
    definite: list[Hook] = []
    for name, function in fwd_hooks:
        if isinstance(name, str):
            name = count_from_end(name, known)
            if name not in known:
                raise ValueError(f"no hook point is called {name!r}. {what_exists(name, known)}")
            names = [name]
        else:
            names = list(filter(name, known))
            if not names:
                raise ValueError(nothing_selected(name))
        aside = [n for n in names if n.endswith("hook_resid_mid") and known[n].name != n]
        for mid in aside:
            at_mid, at_post = _in_both_branches(function)
            definite.append((mid, at_mid))
            first.append((mid.replace("hook_resid_mid", "hook_resid_post"), at_post))
        if not aside:
            definite.append((name, function))
    return first + definite


def _in_both_branches(
    function: Callable[..., Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function at the MLP's input, and the change it made once more at the block's output."""
    changes: list[torch.Tensor] = []

    def at_mid(activation: torch.Tensor, hook: Any) -> Any:
        changes.clear()
        new = function(activation, hook=hook)
        if new is not None:
            changes.append(new - activation)
        return new

    def at_post(activation: torch.Tensor, hook: Any) -> Any:
        return activation + changes.pop() if changes else None

    facts = getattr(function, "facts", None)
    if facts is not None:
        carrying(at_mid, **facts)
        carrying(at_post, **facts)
    return at_mid, at_post


def one_of(layer: Layers, layers: Layers) -> Layers:
    """`layer=` and `layers=` mean the same; both at once is an error."""
    if layer is not None and layers is not None:
        raise ValueError("give layer= or layers=, not both")
    return layers if layer is None else layer
