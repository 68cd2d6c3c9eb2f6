"""MMAU in the layout of the hub's data sets: parquet files that hold the recordings.

Two layouts are in use. The authors' own (gamma-lab-umd/MMAU-test-mini, version v05.15.25) has
`context` (the audio), `instruction`, `choices`, `answer` and `other_attributes` (JSON text with id,
task, …). The other (lmms-lab/mmau) has `audio`, `question` and one column for each fact, with the
choices as JSON text.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_audio.data.items import refuse
from lens_audio.evals.benchmarks.mmau import GROUPS, MMAU, REVISED

AUDIO = ("context", "audio")
RENAMED = {"instruction": "question", "question_id": "id"}
KEPT = ("id", "question", "choices", "answer", "dataset", "split", *GROUPS)


def read_parquet(path: str | os.PathLike[str], version: str = REVISED) -> MMAU:
    """A parquet file, or all of a folder's.

    Raises:
        ImportError: where `datasets` is not installed.
        FileNotFoundError: if there is none.
        ValueError: for rows that are no questions with recordings, named.
    """
    try:
        from datasets import Audio, load_dataset
    except ImportError as error:
        raise ImportError(
            "parquet is read by the package datasets: pip install 'lens_audio[parquet]'"
        ) from error
    path = Path(path).expanduser()
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"there is no parquet file at {path}")
    try:
        table = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # of several packages
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{path} cannot be read as parquet: {reason}") from error
    column = next((name for name in AUDIO if name in table.column_names), None)
    if column is None:
        raise ValueError(
            f"{path.name}: no column of audio ({' or '.join(AUDIO)}) among {table.column_names}"
        )
    # The file's bytes as they are, so that a damaged one is one item's failure.
    table = table.cast_column(column, Audio(decode=False))
    rows, problems = [], []
    for number, row in enumerate(table.remove_columns(column)):
        try:
            rows.append(_row(row))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    refuse(problems, path.name)
    sounds = [StoredAudio(table, number, column) for number in range(len(table))]
    return MMAU.of_rows(rows, sounds, version, path.name)


@dataclass(frozen=True, eq=False)
class StoredAudio:
    """A recording in a table, read when it is needed."""

    table: Any
    row: int
    column: str

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            ValueError: where the table holds none.
        """
        held = self.table[self.row][self.column]
        if not held or not held.get("bytes"):
            raise ValueError("the table holds no recording")
        return held["bytes"]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row under the names of the official JSON."""
    facts = row.get("other_attributes") or {}
    facts = _parsed(facts, "other_attributes") if isinstance(facts, str) else facts
    named = {RENAMED.get(key, key): value for key, value in {**row, **facts}.items()}
    if isinstance(named.get("choices"), str):
        named["choices"] = _parsed(named["choices"], "choices")
    if named.get("answer") in ("", None):
        named.pop("answer", None)  # withheld
    return {key: named[key] for key in KEPT if named.get(key) is not None}


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"its {what} are not valid JSON") from error
