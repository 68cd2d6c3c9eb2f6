"""Weight files: safetensors, or PyTorch's .bin opened so that no code in it can run."""

import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lens_audio.checkpoints.family import read_json

# The single file, the index of several, and all there are without one; safetensors come first.
LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json", "*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model*.bin"),
)


def find_shards(folder: Path) -> list[Path]:
    """The single weight file, or those that the index names, or all there are.

    Raises:
        FileNotFoundError: for a folder without weights.
        ValueError: for an index that is damaged or names files that are not there, and for what is
            no file at all.
    """
    for single, index, pattern in LAYOUTS:
        if (folder / single).is_file():  # transformers looks there first, too
            return [folder / single]
        if (folder / index).is_file():
            return _indexed(folder, index)
        if found := sorted(folder.glob(pattern)):
            return [_file(path) for path in found]
    raise FileNotFoundError(
        f"{folder} has no weights: neither *.safetensors nor pytorch_model*.bin"
    )


def stored_shapes(shard: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a file, which is not read further."""
    if shard.suffix == ".bin":
        return {name: tuple(tensor.shape) for name, tensor in _read_bin(shard).items()}
    with _open(shard) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def stored_tensors(
    shard: Path, device: torch.device, wanted: Container[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The wanted tensors of a file, by default all, one after the other, on the device."""
    if shard.suffix == ".bin":
        for name, tensor in _read_bin(shard).items():
            if wanted is None or name in wanted:
                yield name, tensor.to(device)
        return
    with _open(shard, str(device)) as file:
        for name in file.keys():  # noqa: SIM118 (no dictionary)
            if wanted is None or name in wanted:
                yield name, file.get_tensor(name)


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal; the hub shows the same for its files."""
    if re.fullmatch("[0-9a-f]{64}", path.resolve().name):  # how the hub's cache names large files
        return path.resolve().name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _indexed(folder: Path, index: str) -> list[Path]:
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / index} has no weight_map, so it is no index of weight files")
    astray = [n for n in weight_map.values() if not isinstance(n, str) or Path(n).name != n]
    if astray:
        raise ValueError(f"{folder / index} names {astray[0]!r}, which is no file of its folder")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not os.path.lexists(folder / name)]
    if missing:
        raise ValueError(f"{folder} lacks the shards {missing} that its index names")
    return [_file(folder / name) for name in names]


def _file(path: Path) -> Path:
    """The path, if it is a file: reading a pipe would wait for ever."""
    if not path.exists():
        raise ValueError(f"{path} is a link to nothing; download the checkpoint again")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file, so it holds no weights")
    return path


def _open(shard: Path, device: str = "cpu") -> Any:
    try:
        return safe_open(shard, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{shard} cannot be read ({error}); it is truncated or not safetensors. Download it again"
        ) from error


def _read_bin(shard: Path) -> dict[str, Tensor]:
    """The tensors by name, mapped from the file rather than read (an old file cannot be mapped)."""
    try:
        tensors = torch.load(
            shard, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(shard)
        )
    except pickle.UnpicklingError:
        raise ValueError(
            f"{shard} holds more than tensors, and what it holds could run code: it is refused. "
            f"Get the checkpoint as safetensors, or from its authors"
        ) from None  # torch's own message advises to load it all the same
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise ValueError(
            f"{shard} cannot be read ({error}); it is truncated or no PyTorch file. Download it again"
        ) from error
    is_named = isinstance(tensors, dict) and all(isinstance(t, Tensor) for t in tensors.values())
    if not is_named:
        raise ValueError(f"{shard} holds no tensors by name, so it is no checkpoint's weight file")
    return tensors
