"""Stored tensors into the model's places: names, shapes and values are checked on the way."""

from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor

from lens_audio.checkpoints.family import Family

Shape = tuple[int, ...]
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
}


def assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter into its place in the model."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


def match_tensors(
    model: nn.Module, stored: Mapping[str, Mapping[str, Shape]], family: Family, where: str
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Our names for every stored tensor.

    Args:
        stored: the shapes by name of each file.
        where: the checkpoint, for the message.

    Raises:
        ValueError: naming every tensor that is missing, unknown, stored twice or misshapen.
    """
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    places: dict[str, dict[str, tuple[str, ...]]] = {file: {} for file in stored}
    unknown, misshapen, twice = [], [], []
    found: set[str] = set()
    for file, shapes in stored.items():
        for name, shape in shapes.items():
            ours = family.our_names(name)
            if ours is None or not expected.keys() >= set(ours):
                unknown.append(name)
                continue
            parts = [expected[part] for part in ours]
            whole = (sum(part[0] for part in parts), *parts[0][1:]) if parts else shape
            if shape != whole:
                misshapen.append(f"{name} is {shape}, the config makes it {whole}")
            elif found & set(ours):
                twice.append(name)
            found.update(ours)
            places[file][name] = ours
    missing = {family.their_name(name): None for name in sorted(set(expected) - found)}
    problems = {
        "missing": list(missing),
        "unknown": unknown,
        "stored twice": twice,
        "of the wrong shape": misshapen,
    }
    said = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if said:
        raise ValueError(f"{where} does not fit its config. Tensors " + "; ".join(said))
    return places


def checked(name: str, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The weight in the dtype (by default its own), if every value of it is a finite number.

    It takes one pass over the weight and no memory of its size.

    Raises:
        ValueError: naming the tensor.
    """
    if weight.dtype not in DTYPES.values():
        raise ValueError(
            f"{name} is {str(weight.dtype).removeprefix('torch.')}: quantised weights are not "
            f"supported. Use the checkpoint that they were made from, in {', '.join(DTYPES)}"
        )
    cast = weight.to(dtype or weight.dtype)
    if _is_finite(cast):
        return cast
    if cast is not weight and _is_finite(weight):
        largest = max(map(abs, map(float, weight.aminmax())))
        raise ValueError(
            f"{name} has a value of size {largest:g}, which {str(dtype).removeprefix('torch.')} "
            "cannot hold; load it as bfloat16 or float32"
        )
    raise ValueError(
        f"{name} holds NaN or infinite values, so no output of this model would be a number. The "
        "weights are damaged or come from a training that diverged: get them again"
    )


@torch.no_grad()
def _is_finite(weight: Tensor) -> bool:
    least, most = weight.aminmax()  # NaN goes through; isfinite takes 40 times as long on a CPU
    return bool(torch.isfinite(least) & torch.isfinite(most))


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
