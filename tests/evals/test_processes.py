"""Two CPU processes over gloo: the same results as one, also after one of them was killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from lens_audio.cli import app
from lens_audio.evals import processes as processes_module
from lens_audio.evals.processes import Processes

ROOT = Path(__file__).parents[2]
COMMAND = ["mmau", "--dataset", "testbed", "-n", "8", "--draws", "1", "--ks", "2,4", "--betas", "1,4",
           "--batch-size", "3", "--max-new-tokens", "4", "--workers", "0", "--device", "cpu"]  # fmt: skip
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
          "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
          "--main_process_port", "0", "-m", "lens_audio.cli"]  # fmt: skip


def launched(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*LAUNCH, *map(str, arguments)], env=environment, **options)


def forked(folder, *arguments):
    """The command in two processes, as the launcher begins them: exit status and output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in ("0", "1"):
        children.append(os.fork())
        if not children[-1]:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
            status = 70
            try:
                result = CliRunner().invoke(app, list(map(str, arguments)))
                (folder / rank).write_text(result.output)
                status = result.exit_code
            finally:
                os._exit(status)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [(status, (folder / str(rank)).read_text()) for rank, status in enumerate(statuses)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def second_process(launcher):
    """The launched process of rank 1, once it is there."""
    while launcher.poll() is None:
        for child in psutil.Process(launcher.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # others come and go
                if child.environ().get("RANK") == "1":
                    return child
    raise AssertionError("the launcher ended before its processes began")


def test_two_processes_of_which_one_was_killed_end_as_one_does(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    launcher = launched(*COMMAND, "--out", together, **quiet)
    other = second_process(launcher)
    journal = together / "journal.jsonl"
    while launcher.poll() is None and not (journal.exists() and journal.stat().st_size > 5000):
        time.sleep(0.01)
    os.kill(other.pid, signal.SIGKILL)
    assert launcher.wait() != 0  # and it does not hang
    begun = journal.read_bytes()
    assert [status for status, _ in forked(tmp_path, *COMMAND, "--out", together)] == [0, 0]
    assert journal.read_bytes().startswith(begun[: begun.rindex(b"\n")])
    result = CliRunner().invoke(app, [*COMMAND, "--out", str(alone)])
    assert result.exit_code == 0, result.output
    assert files(together) == files(alone)


def test_two_processes_share_runs_as_one_makes_them(tmp_path):
    command = [
        "eval", "testbed", "-n", "4", "--batch-size", "3", "--max-new-tokens", "3", "--workers", "0",
        "--device", "cpu", "--run", "aad=contrastive", "--run", "deaf=knock-out",
    ]  # fmt: skip
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert [status for status, _ in forked(tmp_path, *command, "--out", together)] == [0, 0]
    result = CliRunner().invoke(app, [*command, "--out", str(alone)])
    assert result.exit_code == 0, result.output
    assert files(together) == files(alone)


def test_both_processes_end_with_one_error(tmp_path):
    missing = tmp_path / "mmau.json"
    missing.write_text('[{"id": "a", "audio_id": "a.wav", "question": "?", "choices": ["b", "c"]}]')
    for status, said in forked(tmp_path, "mmau", missing):
        assert status == 1
        assert said.startswith("error: 1 of 1 recordings are missing: a.wav")


def test_an_error_of_one_process_is_an_error_of_all(monkeypatch):
    told = [(1, None), (2, "ValueError: bad")]
    monkeypatch.setattr(processes_module.Processes, "gather", lambda self, value: told)
    with pytest.raises(RuntimeError, match="process 1 ended with ValueError: bad"):
        Processes().together(1)
    with pytest.raises(KeyError):
        Processes().together(2, KeyError("own"))


def test_a_process_waits_for_the_others_unless_it_fails(monkeypatch):
    waited = []
    monkeypatch.setattr(processes_module.Processes, "gather", lambda self, value: waited.append(1))
    with Processes():
        assert not waited
    assert waited == [1]
    with pytest.raises(KeyError), Processes():
        raise KeyError("own")
    assert waited == [1]


def test_one_process_gathers_from_itself():
    alone = Processes("cpu")
    assert (alone.rank, alone.count, alone.is_main) == (0, 1, True)
    assert alone.together(3) == [3]
