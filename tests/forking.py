"""A forked process that may be killed."""

import os
import threading

from tqdm.auto import tqdm


def fork() -> int:
    """As `os.fork`, with a lock of progress bars of its own: one that is killed never gives it back."""
    child = os.fork()
    if child == 0:
        tqdm.set_lock(threading.RLock())
    return child
