"""The rooms are those of the architecture page, and keep to themselves."""

import ast
import importlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

import lens_audio as la
from lens_audio.analysis.listening import MassAndCorrectness

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lens_audio"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def imports_inside_functions(name: str, source: str) -> Iterator[str]:
    """`importer -> imported` of every import of lens_audio that runs when a function is called."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, functions)):
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module or ""]
            elif isinstance(node, ast.ImportFrom):
                imported = [f"lens_audio (level {node.level})"]
            else:
                imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for module in imported:
                if module.split()[0].split(".")[0] == "lens_audio":
                    yield f"{name} -> {module}"


def private_names(source: str) -> tuple[set[str], set[str]]:
    """The names with one leading underscore that a file defines, and those it uses of anything."""
    defined, used = set(), set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.ClassDef(name=name):
                defined.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(attr=name):
                used.add(name)
            case ast.ImportFrom(names=names):
                used |= {alias.name for alias in names}
    return tuple({n for n in found if re.match("_[a-z]", n, re.I)} for found in (defined, used))


def test_every_import_inside_a_function_is_named_in_the_settings():
    found = {
        line for name, source in FILES.items() for line in imports_inside_functions(name, source)
    }
    assert found == set(SETTINGS["lens_audio"]["imports_inside_functions"])


def test_an_import_inside_a_function_is_found():
    source = "def f():\n    def g():\n        from lens_audio.plots import theme\n    import lens_audio.x"
    found = Counter(imports_inside_functions("m", source))
    assert set(found) == {"m -> lens_audio.plots", "m -> lens_audio.x"}


def test_the_files_that_the_page_names_exist():
    changes = PAGE.partition("## Where do I change")[2]
    rows = [line for line in changes.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`([\w./]+)`", row.split("|")[2]) for row in rows]
    assert {
        row: len(files) for row, files in zip(rows, named, strict=True) if len(files) != 1
    } == {}
    assert [file for (file,) in named if not (ROOT / file).is_file()] == []
    assert len(named) >= 15


ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
ROOMS -= {"__init__", "__pycache__"}


def test_the_rooms_that_the_page_names_are_those_there_are():
    table = PAGE.partition("## The rooms")[2].partition("\n## ")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert Counter(re.findall(r"`(\w+)`", "".join(first))) == Counter(ROOMS)


def test_the_picture_shows_the_rooms_there_are():
    picture = (ROOT / "docs" / "pictures" / "rooms.svg").read_text()
    assert set(re.findall(r">(\w+)</text>", picture)) == ROOMS | {"imports"}


def test_no_file_uses_a_private_name_of_another():
    names = {name: private_names(source) for name, source in FILES.items()}
    ours = set().union(*(defined for defined, _ in names.values()))
    foreign = {name: (used & ours) - defined for name, (defined, used) in names.items()}
    assert {name: sorted(found) for name, found in foreign.items() if found} == {}


def test_no_two_classes_have_the_same_name():
    classes = {
        (node.name, name)
        for name, source in FILES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }
    counts = Counter(class_ for class_, _ in classes)
    assert sorted((c, name) for c, name in classes if counts[c] > 1) == []


@pytest.mark.parametrize(
    "source", ["from a import _listening", "x = model._listening", "model._listening.append(1)"]
)
def test_a_private_name_of_another_file_is_found(source):
    defined, used = private_names(source)
    assert used - defined == {"_listening"}


def test_the_mixins_of_the_decoder_are_independent_of_each_other():
    pairs = permutations(la.HookedTransformer.__bases__, 2)
    assert [(one, other) for one, other in pairs if issubclass(one, other)] == []
    assert len(la.HookedTransformer.__bases__) == 3


@pytest.mark.parametrize(
    ("room", "name", "home"),
    [
        ("model", "HookedAudioTransformer", la.HookedAudioTransformer),
        ("checkpoints", "load_pretrained", la.HookedAudioTransformer.from_pretrained),
        ("checkpoints", "from_hf", la.HookedAudioTransformer.from_hf),
        ("analysis.circuit", "Outcome", la.analysis.circuit.CircuitResult),
        ("analysis.listening", "Measured", MassAndCorrectness),
    ],
)
def test_a_name_that_moved_is_found_where_it_was(room, name, home):
    assert getattr(importlib.import_module(f"lens_audio.{room}"), name) == home
