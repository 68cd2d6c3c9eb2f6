"""What is refused before anything heavy is imported: files, folders and numbers that cannot be.

A command looks here first, then at the checkpoint's small files (`cli.checkpoint`), and only then
loads the model.
"""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lens_audio.files import check_writable
from lens_audio.hub import SMALL_FILES, checkpoint_folder
from lens_audio.testbed import CHECKPOINTS, checkpoint_dir, is_embedded

EMBEDDED = "the embedded checkpoint"
Number = TypeVar("Number", int, float)


def check_outputs(out: Path, table: Path, save: Path | None = None) -> None:
    """Refuse files that cannot be written.

    Raises:
        OSError: saying what is in the way.
        ValueError: for a table that is neither CSV nor JSON, or two files being one.
    """
    if table.suffix not in (".csv", ".json"):
        raise ValueError(f"the table {table.name} must end in .csv or .json")
    given = {"page": out, "table": table} | ({} if save is None else {"steering": save})
    named: dict[Path, str] = {}
    for what, path in given.items():
        other = named.setdefault(check_writable(path).resolve(), what)
        if other != what:
            raise ValueError(
                f"the {other} and the {what} are both {path.name}; give two different files"
            )


def check_kept(recordings: Iterable[str | None], *outputs: Path) -> None:
    """Refuse to write over a recording that is asked about.

    Raises:
        ValueError: naming it.
    """
    for name in recordings:
        if name is None or is_corruption(name):
            continue
        for output in map(Path.expanduser, outputs):
            if output.exists() and output.samefile(Path(name).expanduser()):
                raise ValueError(f"{output} is the recording itself; give another file to write")


def check_readable(path: str | Path, what: str) -> Path:
    """The path, if a file with something in it is there and can be read.

    Args:
        what: the file is, such as "audio file".

    Raises:
        OSError, ValueError: saying what is wrong.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no {what} {path}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise IsADirectoryError(f"{path} is {kind}; give one {what}")
    try:
        with open(path, "rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise PermissionError(f"cannot read the {what} {path}: {error.strerror}") from error
    if is_empty:
        raise ValueError(f"{path} is an empty file; give another {what}")
    return path


def is_corruption(name: str) -> bool:
    """Whether CORRUPTED names a change to CLEAN, and not a file."""
    return name in ("silence", "shuffle", "noise") or name.startswith("noise:")


def noise_ratio(name: str) -> float:
    """The signal-to-noise ratio in dB of `noise:10`.

    Raises:
        ValueError: for anything else.
    """
    try:
        ratio = float(name.partition(":")[2])
    except ValueError:
        ratio = math.nan
    if not math.isfinite(ratio):
        raise ValueError(f"{name!r}: give the ratio in decibels, as in noise:10")
    return ratio


def check_recording(name: str | None) -> None:
    """Refuse a recording that is no file, or a corruption without its number.

    Raises:
        OSError, ValueError: saying what is wrong.
    """
    if name is None or name in ("silence", "shuffle"):
        return
    if is_corruption(name):
        noise_ratio(name)
    else:
        check_readable(name, "audio file")


def check_named(choices: Sequence[str] | None, answer: str | None, instead: str | None) -> None:
    """Refuse answers to compare that are none of the choices, or one and the same.

    Raises:
        ValueError: saying which.
    """
    for named in (answer, instead):
        if named is not None and choices is not None and named not in choices:
            raise ValueError(f"{named!r} is not one of the choices {', '.join(choices)}")
    if answer is not None and answer == instead:
        raise ValueError(
            f"both answers to compare are {answer!r}; name two with --answer and --instead"
        )


def checkpoint_path(model: str | None) -> str | Path:
    """What `--model` names: an embedded checkpoint, a folder or a hub id; by default "listen"."""
    if model is None:
        return checkpoint_dir()
    if is_embedded(model):
        return checkpoint_dir(model)
    if model in CHECKPOINTS:
        warnings.warn(
            f"{model} is a folder here, so that is read and not the embedded checkpoint of that name",
            stacklevel=2,
        )
    return model


def checkpoint_files(model: str | None) -> Path:
    """The folder of a checkpoint; of a hub id its small files alone are fetched.

    Raises:
        FileNotFoundError: for none of these, or a folder without a config.json.
        ValueError: for a config.json that is damaged.
    """
    folder = checkpoint_folder(checkpoint_path(model), SMALL_FILES)
    config = folder / "config.json"
    if (folder / "adapter_config.json").is_file() and not config.is_file():
        return folder  # `read_config_json` says what to do with an adapter
    if not config.is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is not a checkpoint")
    with suppress(RecursionError):  # `read_json` says that it is nested too deeply
        try:
            json.loads(config.read_bytes())  # a BOM is accepted here
        except ValueError as error:
            raise ValueError(f"{config} is not valid JSON: {error}") from error
    return folder


def shown_name(model: str | None) -> str:
    """A hub id as it is, of a folder only its name."""
    if model is None:
        return EMBEDDED
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def check_device_map(device_map: str | None, device: str | None) -> None:
    """Refuse another way to spread a model than "auto", or one next to a device or other processes.

    Raises:
        ValueError: saying what is possible.
    """
    if device_map is None:
        return
    if device_map != "auto":
        raise ValueError(f"--device-map can only be auto, not {device_map!r}")
    if device is not None or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--device-map spreads the model of a single process; give it without --device, to one process"
        )


def numbers(text: str, kind: Callable[[str], Number], option: str) -> tuple[Number, ...]:
    """Numbers above 0, separated by commas.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = tuple(kind(word) for word in text.split(","))
        if all(0 < number < float("inf") for number in found):
            return found
    except ValueError:
        pass
    raise ValueError(f"{option}: give numbers above 0, separated by commas, not {text!r}")
