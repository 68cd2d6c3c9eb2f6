"""A run that is killed at any moment ends, once it is continued, as if nothing had happened."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from lens_audio.evals.run import evaluate

KILLS = 20
torch.set_num_threads(1)


def run(model, dataset, settings, folder: Path) -> None:
    results, _ = evaluate(model, dataset, folder, settings, workers=0, verbose=False)
    results.write(folder)


def killed(run_it, seconds: float) -> bool:
    """Run in a forked process, killed after so many seconds; whether it had not ended by then."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run_it()
            status = 0
        finally:
            os._exit(status)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def whole_lines(folder: Path) -> list[bytes]:
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(True) if journal.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def test_twenty_kills_change_no_byte_of_the_results(model, dataset, settings, tmp_path):
    whole = tmp_path / "whole"
    start = time.perf_counter()
    run(model, dataset, settings, whole)
    seconds = time.perf_counter() - start
    expected = contents(whole)
    drawn = random.Random(0)
    kills, folders = 0, 0
    while kills < KILLS:
        folder, before = tmp_path / str(folders), []
        while kills < KILLS and killed(
            lambda folder=folder: run(model, dataset, settings, folder),
            drawn.uniform(0, seconds / 5),
        ):
            kills += 1
            after = whole_lines(folder)
            assert after[: len(before)] == before  # what was done is not done again
            before = after
        run(model, dataset, settings, folder)
        assert contents(folder) == expected  # the journal too
        folders += 1


if not hasattr(os, "fork"):
    pytestmark = pytest.mark.skip("this system has no fork")
