"""What the documents say is true today."""

import configparser
import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

import lens_audio as la
from lens_audio.cli import app

ROOT = Path(__file__).parent.parent
OUTPUTS = runpy.run_path(str(ROOT / "docs" / "show_outputs.py"))
PAGES = OUTPUTS["PAGES"]
WIDEST = 100  # letters, what a page of the site shows in a window of 1024 pixels
PROGRAMS = {"lens-audio", "make", "python"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path) -> list[tuple[str, str]]:
    """Every fenced block: its language, "" for none, and its text."""
    return re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def shell_lines(page: Path) -> list[str]:
    """The commands of shell blocks, one a line."""
    shell = [block for language, block in fences(page) if language in ("", "bash")]
    text = "\n".join(shell).replace("\\\n", " ")
    lines = [line.removeprefix("$ ").partition(" #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def inline_commands(page: Path) -> list[str]:
    """Commands that the text names: `make test`, `python benchmarks/forward.py`."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", prose)
    return [span for span in spans if " " in span and span.split()[0] in PROGRAMS]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_prints_what_is_shown_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = OUTPUTS["with_outputs"](page)
    assert OUTPUTS["agree"](page.read_text(), printed), f"docs/show_outputs.py writes:\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_output_has_more_digits_than_machines_agree_on(page):
    outputs = [block for language, block in fences(page) if language == "output"]
    assert re.findall(r"\d+\.\d{5,}", "".join(outputs)) == []


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("0.53 of 12", "0.5262  of 12", True),
        ("-0.00", "0.001", True),
        ("0.53", "0.55", False),
        ("12 heads", "13 heads", False),
        ("L0H2", "L0H3", False),
        ("glass 0.5", "knock 0.5", False),
    ],
)
def test_outputs_agree_to_the_digits_shown(shown, printed, agree):
    assert OUTPUTS["agree"](shown, printed) == agree


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_is_of_a_language_that_is_not_run(page):
    assert {language for language, _ in fences(page)} <= {"python", "bash", "", "text", "output"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_is_no_wider_than_a_page(page):
    code = [block for language, block in fences(page) if language != "output"]  # that wraps
    assert [line for line in "".join(code).splitlines() if len(line) > WIDEST] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_an_output_stands_below_what_prints_it(page):
    shown = [block["output"] for block in OUTPUTS["BLOCK"].finditer(page.read_text())]
    assert sum(map(bool, shown)) == [language for language, _ in fences(page)].count("output")


COMMANDS = sorted({line for page in PAGES for line in shell_lines(page) if "lens-audio" in line})


@pytest.mark.parametrize("line", [c for c in COMMANDS if "--model" not in c and "Qwen/" not in c])
def test_every_command_of_a_shell_block_runs(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    for word in words:
        if word.endswith(".wav"):
            shutil.copy(la.testbed.demo_clip(), word)
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_named_exists(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for line in shell_lines(page) + inline_commands(page):
        program, *words = shlex.split(line)
        if program == "accelerate":  # run for true by tests/evals/test_processes.py
            program, words = "lens-audio", words[words.index("lens_audio.cli") + 1 :]
        if program == "make":
            assert set(words) <= set(targets), line
        elif program == "lens-audio":
            command = typer.main.get_command(app).commands[words[0]]
            command.make_context(words[0], words[1:])  # refuses options that do not exist
        elif program == "python" and words[0] == "-m":
            assert find_spec(words[1]) is not None, line
        elif program == "python":
            assert (ROOT / words[0]).is_file(), line
        else:
            assert program in ("pip", "mkdocs"), f"{line}: how is this tested?"


def test_the_hook_point_table_is_what_the_code_gives():
    made = runpy.run_path(str(ROOT / "docs" / "make_hook_points.py"))
    assert made["page"]() == made["PAGE"].read_text()


def test_every_picture_has_a_function_and_a_page():
    drawn = set(runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))["FIGURES"])
    kept = {path.stem for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    used = {name for page in PAGES for name in re.findall(r"pictures/(\w+)\.svg", page.read_text())}
    assert drawn == kept == used


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_local_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_citation_is_of_this_version_and_names_its_sources():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == setup["metadata"]["version"]
    assert all(citation[key] for key in ("message", "title", "authors"))
    assert all(source["title"] and source["authors"] for source in citation["references"])
    assert "2603.06854" in str(citation["references"])
    assert "TransformerLens" in str(citation["references"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_asks_nothing_of_the_network(site):
    tags = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    found = {page.name: tags.findall(page.read_text()) for page in site.rglob("*.html")}
    assert {name: tag for name, tag in found.items() if tag} == {}


def test_every_formula_is_drawn(site):
    page = (site / "steering.html").read_text()
    written = (ROOT / "docs" / "steering.md").read_text()
    assert page.count('display="block"') == written.count("$$") // 2 > 0
    assert all('class="arithmatex"' not in p.read_text() for p in site.rglob("*.html"))


def test_the_reference_has_every_public_name(site):
    anchors = set()
    for page in (site / "api").glob("*.html"):
        anchors.update(re.findall(r'id="(lens_audio[\w.]*)"', page.read_text()))
    # A function beside its module of the same name stands under the module's.
    anchors |= {anchor.rpartition(".")[0] for anchor in anchors}
    rooms = ["", *(f".{name}" for name in la._ROOMS)]
    names = {
        f"lens_audio{room}.{name}"
        for room in rooms
        for name in importlib.import_module(f"lens_audio{room}").__all__
    }
    assert names - anchors == set()
