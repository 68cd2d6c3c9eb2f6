"""Killed at any moment and begun again with other arguments: refused, or as if nothing had happened."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forking import fork
from models import Layout, hooked_model, make_prompt, with_sound_of

import lens_audio as la
from lens_audio.analysis import metrics
from lens_audio.analysis.patching import progress, sweep
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.protocol import Settings
from lens_audio.evals.run import evaluate

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]
KILLS = 20
DONE, REFUSED, BROKEN = 0, 3, 4
torch.set_num_threads(1)


def ended(work, seconds: float) -> int | None:
    """How the work ended in a process that is killed after so many seconds; None: by that."""
    child = fork()
    if child == 0:
        status = BROKEN
        try:
            work()
            status = DONE
        except ValueError:
            status = REFUSED
        finally:
            os._exit(status)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def twenty_kills(works, seconds, read, check, remove):
    """Begin one of the works, kill it, begin another, …

    Args:
        works: by name; they write to one place.
        seconds: that one takes.
        read: what is in that place.
        check: whether it is what the named work left there, wholly or (finished=False) in part.
        remove: empties the place.
    """
    drawn = random.Random(0)
    kills = refused = finished = 0
    owner = None  # whose work lies there
    while kills < KILLS or not refused or not finished:
        name, before = drawn.choice(sorted(works)), read()
        status = ended(works[name], drawn.uniform(0, 1.5 * seconds))
        assert status != BROKEN
        if status == REFUSED:
            refused += 1
            assert name != owner
            assert read() == before
            if refused % 3 == 0:
                remove()
                owner = None
            continue
        kills += status is None
        finished += status == DONE
        if (read() != before and owner is None) or status == DONE:
            owner = name
        if owner is not None:
            check(owner, finished=status == DONE)
        if status == DONE:
            remove()
            owner = None


def test_twenty_kills_of_a_sweep_with_changed_arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "CELLS", 4)
    path = tmp_path / "sweep.safetensors"
    layout = Layout(n_text=[8], clips=[[31]])
    clean, other = (make_prompt(layout=layout, seed=seed) for seed in (0, 1))
    corrupted, weights = with_sound_of(clean, other), hooked_model()
    weights.blocks[1].mlp.W_out.data[3, 3] += 1e-3
    options = {"engine": "naive", "heads": "each", "verbose": False}
    arguments = {
        "as it is": {},
        "noise": {"direction": "noise"},
        "other metric": {"metric": metrics.logit_diff(5, 8)},
        "other weights": {"model": weights},
        "other positions": {"positions": {str(i): [i, i + 1] for i in range(len(clean.tokens[0]) - 1)}},
    }  # fmt: skip

    as_it_is = {"model": hooked_model(), "metric": metrics.logit_diff(5, 7)}

    def run(resume_from, **changed):
        asked = {**as_it_is, **options, **changed}
        return sweep(clean=clean, corrupted=corrupted, site="z", resume_from=resume_from, **asked)

    start = time.perf_counter()
    expected = {name: run(None, **changed) for name, changed in arguments.items()}
    seconds = (time.perf_counter() - start) / len(arguments)

    def check(name, finished):
        kept = PatchingResult.load(path)
        assert kept.axes == expected[name].axes
        done = ~kept.values.isnan()
        assert torch.equal(kept.values[done], expected[name].values[done])
        assert torch.equal(kept.base, expected[name].base)
        assert bool(done.all()) or not finished

    twenty_kills(
        {name: lambda c=changed: run(path, **c) for name, changed in arguments.items()},
        seconds,
        lambda: path.read_bytes() if path.exists() else None,
        check,
        lambda: path.unlink(missing_ok=True),
    )


def test_twenty_kills_of_mmau_with_changed_arguments(tmp_path):
    model, pruned = (
        la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")
        for _ in range(2)
    )
    pruned.blocks[2].attn.o_proj.weight.data[:, 33] = 0
    dataset = SyntheticQA.make(8)
    samples, rate = dataset.items[5].audio
    louder = [*dataset.items[:5], replace(dataset.items[5], audio=(2 * samples, rate))]
    settings = Settings(
        wording("plain"), ks=(2, 4), betas=(1.0, 4.0), draws=1, batch_size=3, max_new_tokens=4,
        n_permutations=50,
    )  # fmt: skip
    arguments = {
        "as it is": (model, dataset, settings),
        "other weights": (pruned, dataset, settings),
        "other recording": (model, replace(dataset, items=[*louder, *dataset.items[6:]]), settings),
        "other seed": (model, dataset, replace(settings, seed=1)),
    }

    def run(folder: Path, name: str) -> None:
        model, dataset, settings = arguments[name]
        results, _ = evaluate(model, dataset, folder, settings, workers=0, verbose=False)
        results.write(folder)

    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}

    def lines(folder: Path) -> list[bytes]:
        journal = folder / "journal.jsonl"
        whole = journal.read_bytes().splitlines(True) if journal.exists() else []
        return [line for line in whole if line.endswith(b"\n")]

    start = time.perf_counter()
    for name in arguments:
        run(tmp_path / name, name)
    seconds = (time.perf_counter() - start) / len(arguments)
    folder = tmp_path / "out"

    def check(name, finished):
        there, expected = lines(folder), lines(tmp_path / name)
        assert there == expected[: len(there)]
        assert not finished or contents(folder) == contents(tmp_path / name)

    def batches():
        return lines(folder)[1:]  # a journal in which nothing is done is anybody's

    def remove():
        for path in folder.glob("*"):
            path.unlink()

    twenty_kills(
        {name: lambda name=name: run(folder, name) for name in arguments},
        seconds,
        batches,
        check,
        remove,
    )
