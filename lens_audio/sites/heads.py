"""Which layers and heads: numbers, (layer, head) pairs, or labels such as "L0H2"."""

import operator
import re
from collections.abc import Iterable
from typing import Any, SupportsIndex

import torch
from torch import Tensor

Layers = SupportsIndex | Iterable[Any] | None
Heads = SupportsIndex | Iterable[Any] | None  # numbers, (layer, head) pairs, or labels of pairs
Head = tuple[int, int]  # (layer, head)

LABEL = re.compile(r"L(-?\d+) ?H(-?\d+)")


def every_head(n_layers: int, n_heads: int) -> list[Head]:
    """All (layer, head) pairs, layer after layer."""
    return [(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def head_name(layer: int, head: int) -> str:
    """L3H5: layer 3, head 5, both counted from 0."""
    return f"L{layer}H{head}"


def as_integers(chosen: Any, what: str) -> Tensor:
    """Numbers [n], or pairs [n, 2], of layers or heads.

    Raises:
        ValueError: for a selection of nothing, or what is no integer.
    """
    try:
        listed = chosen if hasattr(chosen, "__index__") else _labels_read(chosen)
        numbers = torch.atleast_1d(torch.as_tensor(listed))
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be integers, not {chosen!r}") from None
    if numbers.numel() == 0:
        raise ValueError(f"an empty selection of {what}; leave it out to mean all of them")
    if numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.ndim > 2:
        raise ValueError(f"{what} must be integers, not {chosen!r}")
    return numbers


def counted(chosen: Layers, n: int, what: str, where: str = "") -> list[int]:
    """Numbers of `n` layers or heads, counted from 0; negative ones count from the last.

    Args:
        chosen: all for None.
        what: "layer" or "head". where: what has them, for the message.

    Raises:
        ValueError: for a selection of nothing, or a number that does not exist.
    """
    if chosen is None:
        return list(range(n))
    numbers = as_integers(chosen, f"{what}s")
    if numbers.ndim != 1:
        raise ValueError(f"{what}s must be numbers here, not pairs: {chosen!r}")
    for number in numbers.tolist():
        if not -n <= number < n:
            raise ValueError(
                f"{what} {number} does not exist: {where or 'the model'} has {what}s 0 to {n - 1}"
            )
    return [number % n for number in numbers.tolist()]


def heads_by_layer(layers: Layers, heads: Heads) -> list[tuple[Layers, list[int] | None]]:
    """Layers with the heads of each: `heads` may be head numbers, or (layer, head) pairs.

    Raises:
        ValueError: for no heads, or for pairs together with layers.
    """
    if heads is None:
        return [(layers, None)]
    chosen = as_integers(heads, "heads")
    if chosen.ndim == 1:
        return [(layers, chosen.tolist())]
    if chosen.shape[1] != 2:
        raise ValueError(f"heads must be numbers or (layer, head) pairs, not {heads!r}")
    if layers is not None:
        raise ValueError("heads given as (layer, head) pairs bring their layers; leave out layers=")
    by_layer: dict[int, list[int]] = {}
    for layer, head in chosen.tolist():
        by_layer.setdefault(layer, []).append(head)
    return [(layer, some) for layer, some in by_layer.items()]


def head_pairs(heads: Any, what: str = "head") -> list[Head]:
    """(layer, head) pairs, also of labels, as they were given.

    Raises:
        ValueError: for what is no pair of integers.
    """
    try:
        return [
            (operator.index(layer), operator.index(head)) for layer, head in _labels_read(heads)
        ]
    except (TypeError, ValueError):
        raise ValueError(
            f"{what}s are (layer, head) pairs of integers, or labels such as 'L0H2', not {heads!r}"
        ) from None


def check_pairs(heads: Any, n_layers: int, n_heads: int, what: str = "head") -> list[Head]:
    """(layer, head) pairs counted from 0; negative numbers count from the last.

    Raises:
        ValueError: for no pairs, or one that does not exist.
    """
    pairs = head_pairs(heads, what)
    if not pairs:
        raise ValueError(f"no {what}s; give at least one (layer, head) pair")
    for layer, head in pairs:
        if not (-n_layers <= layer < n_layers and -n_heads <= head < n_heads):
            raise ValueError(
                f"{what} {(layer, head)} does not exist: there are layers 0 to {n_layers - 1} of "
                f"heads 0 to {n_heads - 1} ({n_layers} layers x {n_heads} heads)"
            )
    return [(layer % n_layers, head % n_heads) for layer, head in pairs]


def _labels_read(heads: Any) -> list[Any]:
    """The heads in a list, labels as pairs."""
    return [_pair_of(h) if isinstance(h, str) else h for h in _listed(heads)]


def _listed(heads: Any) -> list[Any]:
    return [heads] if isinstance(heads, str) else list(heads)


def _pair_of(label: str) -> Head:
    match = LABEL.fullmatch(label)
    if match is None:
        raise ValueError(f"no head is called {label!r}")
    return int(match[1]), int(match[2])
