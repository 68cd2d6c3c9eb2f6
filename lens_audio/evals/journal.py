"""What a run has done so far: a file that is only ever appended to, one line a batch."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from lens_audio.evals.items import refuse

Key = tuple[str, int]  # phase and batch


class Journal:
    """Lines of JSON: first what the run is, then each batch once it is done.

    A line is written whole and synced to the disk before anything else happens. A process that is
    killed leaves at most an unfinished last line, which is dropped: its batch was not done.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Begin a journal, or go on with the one that is there.

        Raises:
            ValueError: for a journal of another run, saying what differs, or a damaged one.
            BlockingIOError: while another process writes it.
        """
        self.done: dict[Key, dict[str, Any]] = {}
        self._file = open(path, "a+b")  # noqa: SIM115 (it stays open)
        try:
            self._lock(path)
            self._begin(path, json.loads(json.dumps(manifest)))
        except BaseException:
            self._file.close()
            raise

    def append(self, phase: str, batch: int, outcome: dict[str, Any]) -> None:
        """Record a batch that is done."""
        self._write({"phase": phase, "batch": batch, **outcome})
        self.done[phase, batch] = outcome

    def close(self) -> None:
        """Let another process write it."""
        self._file.close()

    def _lock(self, path: Path) -> None:
        try:
            # Not flock: worker processes would inherit that, and outlive a killed run with it.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BlockingIOError(f"another process is writing {path}; wait, or end it") from error

    def _begin(self, path: Path, manifest: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            self._file.truncate(sum(map(len, lines[:-1])))
            os.fsync(self._file.fileno())
            lines.pop()
        if not lines:
            self._write(manifest)
            self._sync_folder(path)
            return
        records = [_parsed(line, number, path) for number, line in enumerate(lines, 1)]
        if len(records) == 1 and differences(records[0], manifest):  # begun, and nothing done yet
            self._file.truncate(0)
            self._write(manifest)
            return
        refuse(
            differences(records[0], manifest), f"cannot go on with {path}, which was another run's"
        )
        for record in records[1:]:
            self.done[record.pop("phase"), record.pop("batch")] = record

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _sync_folder(self, path: Path) -> None:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def differences(before: dict[str, Any], now: dict[str, Any], name: str = "") -> list[str]:
    """What differs between two manifests, in words."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        label = f"{name} {key}".strip()
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, label)
        elif old != new:
            found.append(f"{label} was {old!r} and is {new!r}")
    return found


def _parsed(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}: line {number} is damaged; restore the file or remove it"
        ) from error
