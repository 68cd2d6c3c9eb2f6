"""Workers end with a run that is killed, whatever they are doing."""

import os
import signal
import time
from dataclasses import dataclass

import psutil
import pytest
import torch
from forking import fork
from torch.utils.data import get_worker_info

import lens_audio as la
from lens_audio import workers
from lens_audio.data.items import AudioQAItem
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.protocol import Settings
from lens_audio.evals.run import evaluate

torch.set_num_threads(1)
HOURS = 10_000.0


@dataclass
class NeverRead:
    """A recording that a worker never finishes reading."""

    place: str

    def read(self) -> bytes:
        if get_worker_info() is not None:
            open(f"{self.place}/{os.getpid()}", "w").close()
            time.sleep(HOURS)
        return b""


def forked(work) -> int:
    child = fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def have_ended(children) -> bool:
    """Whether they end. The time is for a busy machine: those that stay would for hours."""
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    return not alive


def test_the_workers_of_a_killed_evaluation_end(tmp_path):
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")
    items = [
        AudioQAItem(str(n), "What?", ("a", "b"), "a", NeverRead(str(tmp_path))) for n in range(4)
    ]
    settings = Settings(wording("plain"), runs=("base",), batch_size=1)
    (tmp_path / "out").mkdir()
    run = forked(
        lambda: evaluate(
            model, SyntheticQA(items, "1"), tmp_path / "out", settings, workers=2, verbose=False
        )
    )
    try:
        while len(list(tmp_path.iterdir())) < 3:  # both read
            assert psutil.Process(run).status() != psutil.STATUS_ZOMBIE
            time.sleep(0.01)
        children = psutil.Process(run).children(recursive=True)
        assert len(children) == 2
    finally:
        killed(run)
    assert have_ended(children)


@pytest.mark.parametrize("platform", ["linux", "another"])
def test_a_worker_ends_with_its_parent_on_every_system(platform, monkeypatch):
    monkeypatch.setattr(workers.sys, "platform", platform)
    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LOOKS", 0.01)
    ready, told = os.pipe()

    def work():
        workers.end_with_parent()
        os.write(told, b"1")
        time.sleep(HOURS)

    def parent():
        forked(work)
        time.sleep(HOURS)

    process = forked(parent)
    os.read(ready, 1)
    children = psutil.Process(process).children()
    killed(process)
    assert have_ended(children)
