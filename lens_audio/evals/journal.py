"""What a run has done so far: a file that is only ever appended to, one line a batch."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lens_audio import files
from lens_audio.data.items import refuse
from lens_audio.fingerprint import differences

Key = tuple[str, int]  # phase and batch
Check = Callable[[str, dict[str, Any]], None]  # (phase, outcome): a ValueError if it is none


class Journal:
    """Lines of JSON: first what the run is, then each batch once it is done.

    A line is written whole and synced to the disk before anything else happens. A process that is
    killed leaves at most an unfinished last line, which is dropped: its batch was not done.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], check: Check = lambda phase, outcome: None
    ) -> None:
        """Begin a journal, or continue the one that is there.

        Args:
            check: refuses what no batch of a phase gives.

        Raises:
            ValueError: for a journal of another run, saying what differs, of an earlier version of
                the package, or a damaged one.
            BlockingIOError: while another run writes it.
            OSError: for a path that cannot be written.
        """
        self.done: dict[Key, dict[str, Any]] = {}
        self._check = check
        self._lock = files.FileLock(files.check_writable(path))
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 (it stays open)
        except BaseException:
            self._lock.release()
            raise
        try:
            self._begin(path, json.loads(json.dumps(manifest)))
        except BaseException:
            self.close()
            raise

    def append(self, phase: str, batch: int, outcome: dict[str, Any]) -> None:
        """Record a batch that is done."""
        self._write({"phase": phase, "batch": batch, **outcome})
        self.done[phase, batch] = outcome

    def close(self) -> None:
        """Let another run write it."""
        self._file.close()
        self._lock.release()

    def _begin(self, path: Path, manifest: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            self._file.truncate(sum(map(len, lines[:-1])))
            os.fsync(self._file.fileno())
            lines.pop()
        if not lines:
            self._write(manifest)
            files.sync(path.parent)
            return
        records = [_parsed(line, number, path) for number, line in enumerate(lines, 1)]
        changed = differences(records[0], manifest)
        if len(records) == 1 and changed:  # begun, and nothing done yet
            self._file.truncate(0)
            self._write(manifest)
            return
        if records[0].get("format") != manifest.get("format"):
            raise ValueError(
                f"cannot continue {path}: another version of lens_audio began it, which recorded too "
                "little to tell whether model and recordings are the same. Its results stay as they "
                "are; give another folder, or continue with that version"
            )
        refuse(changed, f"cannot continue {path}, which belongs to another run")
        for number, record in enumerate(records[1:], 2):
            self._take(record, number, path)

    def _take(self, record: dict[str, Any], number: int, path: Path) -> None:
        """A batch's line among those done."""
        try:
            phase, batch = record.pop("phase"), record.pop("batch")
            if not isinstance(phase, str) or type(batch) is not int or (phase, batch) in self.done:
                raise ValueError("no batch, or one that is done")
            self._check(phase, record)
        except (KeyError, ValueError) as error:
            raise _damaged(number, path) from error
        self.done[phase, batch] = record

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _parsed(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(number, path) from error
    if not isinstance(record, dict):
        raise _damaged(number, path)
    return record


def _damaged(number: int, path: Path) -> ValueError:
    return ValueError(f"{path}: line {number} is damaged; restore the file or remove it")
