"""Files of results: checked before the work, written whole or not at all, and by one run at a time."""

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows; a lock there holds within its process
    fcntl = None  # type: ignore[assignment]

AnyPath = str | os.PathLike[str]


def check_writable(path: AnyPath) -> Path:
    """The path, if a file can be written there; nothing is left behind.

    Raises:
        OSError: saying what is in the way.
    """
    path = Path(path).expanduser()
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise IsADirectoryError(f"{path} is {what}; give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")
    _try_writing_into(path.parent)
    return path


def check_folder(path: AnyPath) -> Path:
    """The path, if it is a folder that can be written into, or could be made one.

    Raises:
        OSError: saying what is in the way.
    """
    path = Path(path).expanduser()
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file; give a folder")
    _try_writing_into(there)
    return path


def _try_writing_into(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(f"cannot write into {folder}: {error.strerror}") from error


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Another name to write to, which becomes `path` at the end of the block.

    An earlier file stays until the new one is on the disk, and stays for good if the block raises.

    Raises:
        OSError: if the path cannot be written.
    """
    path = check_writable(path).resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        os.chmod(unfinished, 0o644)
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_bytes(path: AnyPath, content: bytes) -> Path:
    """Write a file whole or not at all; what is returned is its absolute path.

    Raises:
        OSError: if the path cannot be written.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path).expanduser().resolve()


def write_text(path: AnyPath, content: str) -> Path:
    """`write_bytes` of UTF-8; a lone surrogate, which has none, becomes "?"."""
    return write_bytes(path, content.encode("utf-8", errors="replace"))


def in_order(file: bytes) -> bytes:
    """A safetensors file with its header's keys in order: safetensors shuffles the metadata's."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + file[start:]


def sync(path: Path) -> None:
    """Wait until a file, or which names a folder holds, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_HELD: set[tuple[int, Path]] = set()  # locks, by process: a fork has none of its parent's
_CHANGING_HELD = threading.Lock()


class FileLock:
    """The right to write a file, which one holder in all processes has, until `release`.

    What is locked is a file of its own beside it, so the file itself may be read meanwhile: a
    process that closes any handle of a file loses its locks on it. The kernel ends a lock with its
    process. Child processes do not inherit it (as they would inherit a lock of `flock`, and keep it
    when the run is killed).

    Raises:
        BlockingIOError: while another holder has it, in this process or elsewhere.
        OSError: where the file system has no locks.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path).expanduser().resolve()
        self._place = self.path.with_name(f".{self.path.name}.lock")
        self._key = os.getpid(), self._place
        with _CHANGING_HELD:
            if self._key in _HELD:
                raise BlockingIOError(f"this process is writing {path} already; end that run first")
            _HELD.add(self._key)
        try:
            self._handle = self._acquired()
        except BaseException:
            _HELD.discard(self._key)
            raise

    def release(self) -> None:
        """Let another holder write the file."""
        if self._key not in _HELD or self._key[0] != os.getpid():
            return
        if fcntl is not None:  # while it is held, so that nobody else's is removed
            self._place.unlink(missing_ok=True)
        os.close(self._handle)
        _HELD.discard(self._key)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def _acquired(self) -> int:
        while True:
            handle = os.open(self._place, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if fcntl is None:
                    return handle
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_in_place(handle):
                    return handle
            except (BlockingIOError, PermissionError) as error:
                os.close(handle)
                raise BlockingIOError(
                    f"another process is writing {self.path}; wait, or end it"
                ) from error
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # an earlier holder removed it between its opening and its locking

    def _is_in_place(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._place))
        except FileNotFoundError:
            return False
