"""Every shape in a signature of lens_audio is checked while the tests run, each process on one core."""

import gc
import os

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("lens_audio", "beartype.beartype")
# Processes that tests begin, notebooks' kernels among them, have it too: threads that wait for a
# core that another process has would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No time limit: how long an example takes says what else the machine is doing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_ignore_collect(collection_path, config):
    """What drives a browser is not even imported where none of it is wanted."""
    return (
        True
        if collection_path.name == "browser" and "not browser" in config.option.markexpr
        else None
    )


def pytest_collection_finish():
    """What is imported stays; no garbage collection need look through it."""
    gc.collect()
    gc.freeze()
