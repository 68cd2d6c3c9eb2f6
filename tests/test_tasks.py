"""The seven tasks that the docs list are done as their scripts say."""

import re
import runpy
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
TASKS = sorted((DOCS / "tasks").glob("*.py"))
WRITTEN = {
    "encoder_activations": "encoder_activations.npy",
    "head_map_as_pdf": "heads.pdf",
    "patch_unequal_recordings": "patching.html",
    "top_heads_of_twenty_clips": "top_heads.csv",
}


def can_write_pdf() -> bool:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    chrome = any(map(shutil.which, names))
    return chrome and find_spec("kaleido") is not None


@pytest.mark.parametrize("task", TASKS, ids=lambda path: path.stem)
def test_a_task_runs(task, tmp_path, monkeypatch, capsys) -> None:
    if task.stem == "head_map_as_pdf" and not can_write_pdf():
        pytest.skip("kaleido's Chrome is missing")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(task), run_name="__main__")
    written = WRITTEN.get(task.stem)
    assert Path(written).stat().st_size if written else capsys.readouterr().out


def test_the_page_links_every_task() -> None:
    linked = re.findall(r"\]\(tasks/(\w+)\.py\)", (DOCS / "tasks.md").read_text())
    assert sorted(linked) == [task.stem for task in TASKS]
    assert len(TASKS) == 7
