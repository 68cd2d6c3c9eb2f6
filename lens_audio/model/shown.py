"""Weights as TransformerLens shows them: an edit reaches the stored weight, or is refused."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

NOT_EDITS = ("requires_grad_",)


class ShownWeight(Tensor):
    """A stored weight in another shape, or a copy that looks like one and refuses edits.

    A view of a stored weight is edited like any tensor, and `.data = new` writes into it too. What
    is computed from either is an ordinary tensor; views of its memory behave as it does.
    """

    way_out: str | None  # of a copy, whose edits would be lost: what to do instead

    @classmethod
    def of(cls, tensor: Tensor, way_out: str | None = None) -> "ShownWeight":
        """The same values; with a way out they refuse edits and name it."""
        shown = tensor.as_subclass(cls)
        shown.way_out = way_out
        return shown

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        edited = kwargs["out"] if "out" in kwargs else args[0] if _is_edit(func) else None
        if isinstance(edited, cls) and edited.way_out is not None:
            raise ValueError(f"this edit would change nothing: {edited.way_out}")
        with torch._C.DisableTorchFunctionSubclass():
            if _sets_data(func) and isinstance(edited, cls):
                return _write(edited, args[1])
            result = func(*args, **kwargs)
        if args and isinstance(args[0], cls) and _is_view(result, args[0]):
            return cls.of(result, args[0].way_out)
        return result

    def __repr__(self) -> str:  # type: ignore[override]
        return repr(self.as_subclass(Tensor))


@torch.no_grad()
def _write(held: Tensor, value: Tensor) -> None:
    """Copy values into a weight's memory.

    Raises:
        ValueError: for another shape.
    """
    if value.shape != held.shape:
        raise ValueError(
            f"a weight of shape {tuple(held.shape)} cannot be assigned from {tuple(value.shape)}"
        )
    held.copy_(value)


def _is_edit(func: Callable) -> bool:
    """Whether a function of torch edits its first argument: `add_`, `__setitem__`, `__iadd__`, …"""
    name = getattr(func, "__name__", "")
    if not name.startswith("__"):
        return name.endswith("_") and name not in NOT_EDITS
    is_in_place = name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")
    return is_in_place or name == "__setitem__" or _sets_data(func)


def _sets_data(func: Callable) -> bool:
    """Whether this is what `tensor.data = value` calls."""
    owner = getattr(func, "__self__", None)
    return owner is Tensor.data and getattr(func, "__name__", "") == "__set__"


def _is_view(result: Any, source: Tensor) -> bool:
    if not isinstance(result, Tensor) or result is source or result.device.type == "meta":
        return False
    return result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


class ShowsWeights(nn.Module):
    """A module whose weights are also shown under TransformerLens's names, as properties.

    Properties can be assigned, `attn.W_Q = new` or `attn.W_Q = nn.Parameter(new)`: the values go
    into the stored weight.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)  # nn.Module would register a Parameter instead
        else:
            super().__setattr__(name, value)


def bias_or_zeros(linear: nn.Linear) -> Tensor:
    """The bias, or the zeros that TransformerLens keeps where there is none, [out]."""
    if linear.bias is not None:
        return linear.bias
    return torch.zeros(linear.out_features, dtype=linear.weight.dtype, device=linear.weight.device)


def shown_bias(linear: nn.Linear, name: str) -> Tensor:
    """The bias as a property shows it, [out]; zeros that refuse edits where there is none."""
    if linear.bias is not None:
        return ShownWeight.of(linear.bias)
    return ShownWeight.of(
        bias_or_zeros(linear),
        f"the checkpoint has no {name}, and the zeros stand in for it. Assign a whole one, as in "
        f"`attn.b_O = torch.ones(d_model)`, to give the model a {name}",
    )


def store(linear: nn.Linear, name: str, value: Tensor) -> None:
    """Write a "weight" or a "bias" in its stored shape; a bias where there was none is new.

    Raises:
        ValueError: for another shape.
    """
    held = bias_or_zeros(linear) if name == "bias" else linear.weight
    _write(held, value)
    if name == "bias" and linear.bias is None:
        linear.bias = nn.Parameter(held)
