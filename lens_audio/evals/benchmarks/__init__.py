"""Published benchmarks, a file each, and `read`, which takes them by name."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from lens_audio.evals.benchmarks import alme, mmar, mmau, mmau_parquet, object_hallucination
from lens_audio.evals.benchmarks import rulistening as rul
from lens_audio.evals.items import AudioQADataset

__all__ = ["BENCHMARKS", "read", "read_mmau"]

Given = str | os.PathLike[str]


def read_mmau(path: Given, audio: Given | None = None, version: str | None = None) -> mmau.MMAU:
    """MMAU in either layout: its JSON, or a parquet file or a folder of them.

    Args:
        audio: as of `read`; parquet files hold the recordings.
        version: of the benchmark; by default the first for JSON, and v05.15.25 for parquet.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
    path = Path(path).expanduser()
    if path.is_dir() or path.suffix == ".parquet":
        return mmau_parquet.read_parquet(path, version or mmau.REVISED)
    return mmau.MMAU.read_json(path, audio, version or mmau.FIRST)


# What reads each: called with the file, and the folder of recordings or None.
BENCHMARKS: Mapping[str, Callable[..., AudioQADataset]] = MappingProxyType(
    {
        "mmau": read_mmau,
        "mmar": mmar.MMAR.read,
        "rulistening": rul.RUListening.read,
        "alme": alme.ALME.read,
        "object-hallucination": object_hallucination.ObjectHallucination.read,
    }
)


def read(name: str, path: Given, audio: Given | None = None) -> AudioQADataset:
    """A benchmark's questions, from the file that its authors publish.

    Args:
        name: of `BENCHMARKS`.
        audio: the folder of the recordings; by default the folder of the file.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: for an unknown name, or rows that are no questions, named.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name](path, audio)
