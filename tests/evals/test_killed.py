"""A run that is killed at any moment ends, once it is continued, as if nothing had happened."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from forking import fork

from lens_audio import hooks
from lens_audio.data.wording import wording
from lens_audio.evals import Asking, over_noise
from lens_audio.evals.run import evaluate
from lens_audio.steering import AudioSilenceSteering, SteeringVector, contrastive

KILLS = 20
torch.set_num_threads(1)


def run(model, dataset, settings, folder: Path, **options) -> None:
    results, _ = evaluate(model, dataset, folder, settings, workers=0, verbose=False, **options)
    results.write(folder)


def killed(run_it, seconds: float) -> bool:
    """Run in a forked process, killed after so many seconds; whether it had not ended by then."""
    child = fork()
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


def check_kills(run_it, tmp_path: Path, n_kills: int) -> None:
    """Killed so often, it ends with the files of a run that nothing disturbed."""
    whole = tmp_path / "whole"
    start = time.perf_counter()
    run_it(whole)
    seconds = time.perf_counter() - start
    expected = contents(whole)
    drawn = random.Random(0)
    kills, folders = 0, 0
    while kills < n_kills:
        folder, before = tmp_path / str(folders), []
        while kills < n_kills and killed(
            lambda folder=folder: run_it(folder), drawn.uniform(0, seconds / 5)
        ):
            kills += 1
            after = whole_lines(folder)
            assert after[: len(before)] == before  # what was done is not done again
            before = after
        run_it(folder)
        assert contents(folder) == expected  # the journal too
        folders += 1


def test_twenty_kills_change_no_byte_of_the_results(model, dataset, settings, tmp_path):
    check_kills(lambda folder: run(model, dataset, settings, folder), tmp_path, KILLS)


@pytest.mark.long
def test_ten_kills_change_no_byte_of_runs_of_every_kind(model, dataset, tmp_path):
    asking = Asking(wording=wording("plain"), max_new_tokens=4, batch_size=4)
    direction = torch.linspace(-1, 1, model.cfg.d_model)
    runs = {
        "deaf": hooks.knock_out_attention(keys="audio"),
        "louder": hooks.scale_attention(keys="audio", factor=2.0),
        "vector": SteeringVector.supplied(direction, 2),
        "steered": AudioSilenceSteering(heads=((1, 0),), beta=2.0),
        "aad": contrastive(alpha=1.0),
        "noise": over_noise(),
    }
    check_kills(lambda folder: run(model, dataset, asking, folder, runs=runs), tmp_path, KILLS // 2)


if not hasattr(os, "fork"):
    pytestmark = pytest.mark.skip("this system has no fork")
