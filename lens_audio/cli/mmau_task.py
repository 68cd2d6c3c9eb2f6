"""What `lens-audio mmau` is asked, and which questions: told without a model."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lens_audio.cli.checks import check_readable, checkpoint_files
from lens_audio.data.items import AudioQAItem
from lens_audio.data.wording import wording
from lens_audio.evals.items import AudioQADataset, missing_audio, select
from lens_audio.evals.mmau import FIRST, MMAU, REVISED
from lens_audio.evals.mmau_parquet import read_parquet
from lens_audio.files import check_folder

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Request:
    """What the command line asked for; None means the default."""

    data: Path | None
    audio: Path | None
    dataset: str
    benchmark_version: str | None
    items: int
    limit: int | None
    task: str | None
    difficulty: str | None
    skip_missing: bool
    prompt: str | None
    answer_by: str
    max_new_tokens: int
    runs: str
    calibration_share: float
    seed: int
    ks: str
    betas: str
    adaptive: str
    draws: int
    steering: Path | None
    max_seconds: float | None
    model: str | None
    device: str | None
    device_map: str | None
    batch_size: int
    workers: int
    out: Path


def read(request: Request) -> MMAU | None:
    """The questions asked for, after everything that can be told without a model; None: the testbed's.

    Raises:
        OSError, ValueError: for data that is missing or no benchmark, or a request that makes no
            sense.
    """
    if request.dataset == "mmau" and request.data is None:
        raise ValueError(
            "give MMAU's JSON file or its parquet files, or --dataset testbed for the bundled sounds"
        )
    check_folder(request.out)
    numbers(request.ks, int, "--ks")
    numbers(request.betas, float, "--betas")
    if not 0 < request.calibration_share < 1:
        raise ValueError(
            f"--calibration-share must lie between 0 and 1, not {request.calibration_share}"
        )
    if request.prompt is not None:
        wording(request.prompt)
    if request.steering is not None:
        check_readable(request.steering, "file of steering")
    _check_device_map(request)
    checkpoint_files(request.model)
    if request.dataset == "testbed" or request.data is None:
        return None
    dataset = _read_data(request, request.data)
    selected(request, dataset)
    return dataset


def _check_device_map(request: Request) -> None:
    if request.device_map is None:
        return
    if request.device_map != "auto":
        raise ValueError(f"--device-map can be auto, not {request.device_map!r}")
    if request.device is not None or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--device-map spreads one process's model; give it alone, to one process")


def _read_data(request: Request, data: Path) -> MMAU:
    if data.is_dir() or data.suffix == ".parquet":
        return read_parquet(data, request.benchmark_version or REVISED)
    return MMAU.read_json(data, request.audio, request.benchmark_version or FIRST)


def selected(request: Request, dataset: AudioQADataset) -> list[AudioQAItem]:
    """The items asked for.

    Raises:
        ValueError: if no items are left.
    """
    items = select(dataset.items, task=request.task, difficulty=request.difficulty)
    if request.skip_missing:
        missing = {item.id for item in missing_audio(items)}
        items = [item for item in items if item.id not in missing]
    items = items[: request.limit]
    if not items:
        raise ValueError("none of the recordings are there")
    return items


def numbers(text: str, kind: Callable[[str], Number], option: str) -> tuple[Number, ...]:
    """Numbers above 0 with commas between them.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = tuple(kind(word) for word in text.split(","))
        if all(0 < number < float("inf") for number in found):
            return found
    except ValueError:
        pass
    raise ValueError(f"{option}: give numbers above 0 with commas between them, not {text!r}")
