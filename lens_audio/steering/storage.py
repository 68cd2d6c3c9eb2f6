"""Steering on disk: safetensors, with everything that is no tensor as JSON in the metadata."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lens_audio import files


def save(
    path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> Path:
    """Write tensors and facts; `kind` says what they are when they are read again."""
    path = files.check_writable(path)
    metadata = {"lens_audio": kind, "facts": json.dumps(facts)}
    # safetensors writes no file without a tensor.
    tensors = tensors or {"none": torch.zeros(0)}
    held = serialize({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
    files.write_bytes(path, files.in_order(held))
    return path


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file of this kind.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for another file, or one that is damaged.
    """
    path = Path(path).expanduser()
    tensors, metadata = _read(path)
    found = metadata.get("lens_audio")
    if found != kind:
        raise ValueError(f"{path.name} holds {found or 'something else'}, not {kind}")
    tensors.pop("none", None)
    with damage_named(path):
        return tensors, dict(json.loads(metadata["facts"]))


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """What `save` was told that a file holds; None for another safetensors file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a file that is no safetensors file.
    """
    _, metadata = _read(Path(path).expanduser(), with_tensors=False)
    return metadata.get("lens_audio")


def _read(path: Path, with_tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys() if with_tensors else []
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no safetensors file: {error}") from error


@contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """A ValueError that names the file for whatever goes wrong while its facts are taken."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{Path(path).name} is damaged: {error!r}") from error


def model_facts(model: Any) -> dict[str, Any]:
    """What steering must fit: sizes, and the checkpoint's name where it is known."""
    return facts_of(model.cfg)


def facts_of(cfg: Any) -> dict[str, Any]:
    """`model_facts` of a model with this config."""
    name = getattr(cfg, "model_name", None)
    name = (
        Path(name).name if isinstance(name, str) else None
    )  # a folder's place is nobody's business
    sizes = {"n_layers": cfg.n_layers, "n_heads": cfg.n_heads, "d_model": cfg.d_model}
    return {"name": name, **sizes}


def check_fits(facts: dict[str, Any], sizes: dict[str, Any], what: str) -> None:
    """Refuse steering made on a model of other sizes.

    Raises:
        ValueError: naming the sizes that differ.
    """
    wrong = [
        f"{name} {facts[name]} (this model: {sizes[name]})"
        for name in ("n_layers", "n_heads", "d_model")
        if name in facts and facts[name] != sizes[name]
    ]
    if wrong:
        raise ValueError(f"{what} was made on a model of {', '.join(wrong)}")
