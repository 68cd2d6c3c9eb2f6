"""The notebooks run, and what is checked in of them is what a reader should see."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
MOST_BYTES = 1_500_000

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell) -> str:
    return "".join(cell["source"])


def shows_something(cell) -> bool:
    """Whether it prints, or ends in an expression that no semicolon silences."""
    code = source(cell)
    is_silenced = ";" in code.rstrip().splitlines()[-1]
    return "print(" in code or (isinstance(ast.parse(code).body[-1], ast.Expr) and not is_silenced)


def kinds(cell) -> list[list[str]]:
    """What each output is: the stream's name, or the formats of a value."""
    outputs = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    found = [
        [o["name"]] if "name" in o else sorted(set(o["data"]) - {"image/png"}) for o in outputs
    ]
    return [kind for i, kind in enumerate(found) if i == 0 or kind != found[i - 1]]


def test_there_are_the_five_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_listen",
        "02_audio_attention",
        "03_activation_patching",
        "04_steering",
        "05_circuit",
    ]


@every_notebook
def test_it_runs_from_top_to_bottom_and_shows_what_is_checked_in(path, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    executed = runpy.run_path(str(FOLDER / "execute.py"))["executed"](path, tmp_path)
    checked_in = json.loads(path.read_text(encoding="utf-8"))
    assert [kinds(cell) for cell in code_cells(executed)] == [
        kinds(cell) for cell in code_cells(checked_in)
    ]


@every_notebook
def test_its_outputs_are_checked_in(path):
    cells = code_cells(json.loads(path.read_text(encoding="utf-8")))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [source(cell) for cell in cells if shows_something(cell) != bool(cell["outputs"])] == []


@every_notebook
def test_its_figures_are_checked_in_as_pictures_too(path):
    cells = code_cells(json.loads(path.read_text(encoding="utf-8")))
    figures = [o["data"] for cell in cells for o in cell["outputs"] if PLOTLY in o.get("data", {})]
    assert figures
    assert all("image/png" in data for data in figures)


@every_notebook
def test_its_outputs_hold_no_error_no_noise_and_no_path(path):
    text = path.read_text(encoding="utf-8")
    outputs = [o for cell in code_cells(json.loads(text)) for o in cell["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert re.findall(r"/(?:home|root|tmp|Users|usr)/\w*", text) == []
    assert len(text) < MOST_BYTES


@every_notebook
def test_it_opens_with_what_to_learn_and_the_one_line_to_change(path):
    opening = source(json.loads(path.read_text(encoding="utf-8"))["cells"][0])
    assert "You will learn to" in opening
    change = re.search(r"change one line to `(CHECKPOINTS? = [^`]+)`", opening)
    assert change
    assert "Qwen/Qwen2-Audio-7B-Instruct" in change[1]


@every_notebook
def test_only_that_line_names_the_checkpoint(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    name = re.search(r"change one line to `(CHECKPOINTS?) = ", source(cells[0]))[1]
    code = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "code")
    assert len(re.findall(rf"^{name} = .*checkpoint_dir\(", code, re.MULTILINE)) == 1
    assert "Qwen" not in code


@every_notebook
def test_every_notebook_that_it_leads_to_exists(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    links = re.findall(r"\]\((?!http)([^)]+)\)", "".join(map(source, cells)))
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []
