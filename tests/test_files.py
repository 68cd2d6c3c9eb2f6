"""Files of results: whole or not at all, checked before the work, one writer at a time."""

import os
import signal
import time
from pathlib import Path

import pytest

from lens_audio.files import (
    FileLock,
    check_folder,
    check_writable,
    replacing,
    write_bytes,
    write_text,
)


def test_a_file_replaces_the_earlier_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "one")
    assert write_text(path, "two").read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_file_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_text(tmp_path / "file.txt", "one")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_writable(tmp_path / "none" / "file.txt")
    with pytest.raises(IsADirectoryError, match="not a regular file"):
        check_writable("/dev/null")
    assert check_writable(tmp_path / "file.txt") == tmp_path / "file.txt"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        check_folder(tmp_path / "file" / "b")


def test_what_an_interrupted_block_wrote_is_not_the_file(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "whole", b"one")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_bytes(b"tw")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_folder_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert write_text("~/here", "x") == tmp_path / "here"


def test_one_process_has_a_lock_once_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with FileLock(tmp_path / "file"):
        for name in ("file", "link", "../" + tmp_path.name + "/file"):
            with pytest.raises(BlockingIOError, match="this process"):
                FileLock(tmp_path / name)
    with FileLock(tmp_path / "link"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_lock_ends_with_its_process_although_a_child_of_it_lives_on(tmp_path: Path) -> None:
    ready, told = os.pipe()
    holder = os.fork()
    if holder == 0:
        FileLock(tmp_path / "file")
        child = os.fork()
        if child == 0:
            time.sleep(600)
        os.write(told, str(child).encode())
        time.sleep(600)
    child = int(os.read(ready, 20))
    try:
        with pytest.raises(BlockingIOError, match="another process"):
            FileLock(tmp_path / "file")
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.kill(child, 0)  # it is there
        FileLock(tmp_path / "file").release()
    finally:
        os.kill(child, signal.SIGKILL)
