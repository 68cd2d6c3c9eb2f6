"""Files written whole or not at all, and whether they can be, asked before any work."""

import os
import tempfile
from pathlib import Path


def check_writable(path: str | os.PathLike[str]) -> Path:
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


def check_folder(path: str | os.PathLike[str]) -> Path:
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


def write_text(path: str | os.PathLike[str], content: str) -> Path:
    """Write a text as UTF-8: an earlier file stays until the new one is complete.

    Raises:
        OSError: if the path cannot be written.
    """
    path = check_writable(path).resolve()
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(content)
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return path


def _try_writing_into(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(f"cannot write into {folder}: {error.strerror}") from error
