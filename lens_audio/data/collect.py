"""Activations of a run, under their hook names: what every analysis that reads some takes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@contextmanager
def collecting(
    model: Any, names: Iterable[str], take: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Inside, each forward of the model puts activations into the dictionary that is yielded.

    ```python
    with collecting(model, ["blocks.0.attn.hook_v"], take=lambda v: v[:, -1].clone()) as kept:
        model(prompt)
    kept["blocks.0.attn.hook_v"]
    ```

    Later forwards replace what earlier ones put. Gradients flow through what is kept, unless they
    are off. `hooks.capture` joins the steps of one sequence instead, as generation makes them.

    Args:
        model: anything with `hooks`, a `TransformerBridge` included.
        names: of hook points; a negative layer counts from the last.
        take: what is kept of an activation; by default all of it. A view holds on to the whole:
            where that is large, take a copy.

    Raises:
        ValueError: for a hook point that does not exist.
    """
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> None:
        kept[hook.name] = activation if take is None else take(activation)

    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        yield kept


def layer_names(hook: str, layers: Iterable[int]) -> list[str]:
    """The decoder's names of a hook point, such as "hook_resid_post" or "attn.hook_v", by layer."""
    return [f"blocks.{layer}.{hook}" for layer in layers]


def at_positions(
    activation: Float[Tensor, "batch pos *rest"], positions: Int[Tensor, " batch"]
) -> Float[Tensor, "batch *rest"]:
    """One position of each row."""
    rows = torch.arange(len(activation), device=activation.device)
    return activation[rows, positions.to(activation.device)]
