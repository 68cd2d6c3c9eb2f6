"""Worker processes end with the process that they work for, also where that one is killed."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
SECONDS_BETWEEN_LOOKS = 1.0


def mapped(function: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> list[Any]:
    """The function of each job, in their order: by so many processes, or here without any."""
    if not workers:
        return [function(job) for job in jobs]
    # Spawned, not forked: torch's thread pool does not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, end_with_parent) as executor:
        return list(executor.map(function, jobs))


def end_with_parent(*_: object) -> None:
    """Called in a worker as it begins: `worker_init_fn` of a DataLoader, `initializer` of a pool.

    Nothing else tells a worker: one that is killed says no goodbye, and a pipe to it stays open as
    long as another worker has inherited its other end.
    """
    parent = os.getppid()
    if not (sys.platform == "linux" and _killed_with_parent()):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    begun_by = multiprocessing.parent_process()
    if begun_by is not None and not begun_by.is_alive():  # it ended before this was called
        os._exit(1)


def _killed_with_parent() -> bool:
    """Ask Linux to kill this process when the thread that began it ends; whether it will."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def _watch(parent: int) -> None:
    """Where the system has no such service: an orphan gets another parent."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
