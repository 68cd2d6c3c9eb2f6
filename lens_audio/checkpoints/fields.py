"""What the fields of a checkpoint's JSON files may be, checked before anything is built of them.

The limits are generous, several times the largest published model, so that what is beyond them is
a damaged or hostile file and not a model.
"""

from collections.abc import Callable, Mapping
from reprlib import repr as shortened
from typing import Any

import torch
from transformers.activations import ACT2FN

Check = Callable[[Any], str | None]  # what a value must be, or None if it is that


def whole(low: int, high: int) -> Check:
    """A whole number; JSON's `true` and `3.0` are none."""

    def check(value: Any) -> str | None:
        is_it = type(value) is int and low <= value <= high
        return None if is_it else f"a whole number from {low} to {high}"

    return check


def number(low: float, high: float) -> Check:
    """A number, not NaN or infinite."""

    def check(value: Any) -> str | None:
        is_it = type(value) in (int, float) and low <= value <= high
        return None if is_it else f"a number from {low:g} to {high:g}"

    return check


def kind(python_type: type, what: str) -> Check:
    """Any value of this type."""
    return lambda value: None if isinstance(value, python_type) else what


def one_of(*names: str) -> Check:
    """One of these texts."""
    return lambda value: (
        None if isinstance(value, str) and value in names else f"one of {', '.join(names)}"
    )


def or_null(check: Check) -> Check:
    """What `check` accepts, or null."""

    def either(value: Any) -> str | None:
        expected = None if value is None else check(value)
        return expected and f"{expected}, or null"

    return either


def or_several(check: Check) -> Check:
    """What `check` accepts, or a list of it."""

    def either(value: Any) -> str | None:
        values = value if isinstance(value, list) else [value]
        expected = next(filter(None, map(check, values)), None)
        return expected and f"{expected}, or a list of such"

    return either


LAYERS = whole(1, 1024)
HEADS = whole(1, 2**14)
WIDTH = whole(1, 2**20)
VOCABULARY = whole(1, 2**24)
POSITIONS = whole(1, 2**31)
TOKEN = whole(0, 2**31)
EPS = number(0.0, 1.0)
ROTARY_BASE = number(1.0, 1e15)
FLAG = kind(bool, "true or false")
OBJECT = kind(dict, "an object")
ACTIVATION = one_of(*ACT2FN)
TEXT = kind(str, "a text")


def torch_dtype(value: Any) -> str | None:
    """The name of one of torch's dtypes, or "auto"."""
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    is_it = name == "auto" or isinstance(getattr(torch, name, None), torch.dtype)
    return None if is_it else "a dtype of torch, such as bfloat16"


COMMON = {
    "architectures": or_null(or_several(TEXT)),
    "model_type": or_null(TEXT),
    "dtype": or_null(torch_dtype),
    "torch_dtype": or_null(torch_dtype),
    "quantization_config": or_null(OBJECT),
}
GENERATION = {
    "eos_token_id": or_null(or_several(TOKEN)),
    "pad_token_id": or_null(TOKEN),
    "chat_format": or_null(TEXT),
}


def check_fields(found: dict[str, Any], checks: Mapping[str, Check], where: str) -> None:
    """ValueError unless every field that is there is what its check wants.

    Args:
        checks: by the field's dotted path; an object comes before the fields inside it.
        where: the file or the model that they are of, for the message.
    """
    for field, check in checks.items():
        *parents, name = field.split(".")
        holder = found
        for parent in parents:
            holder = holder.get(parent) or {}
        expected = check(holder[name]) if name in holder else None
        if expected:
            raise ValueError(f"{where}: {field} must be {expected}, not {shortened(holder[name])}")
