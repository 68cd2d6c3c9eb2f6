"""Write below each Python block of the documents what it prints: python docs/show_outputs.py [PAGE …]

The blocks of a page run in order and share their names. A command's output is written where the page
has a place for it: a block ```output right below a block of one `lens-audio` command.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

from typer.testing import CliRunner

import lens_audio as la
from lens_audio.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^```(?P<language>python|bash)\n(?P<code>.*?)^```\n(?P<output>\n```output\n.*?^```\n)?",
    flags=re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
COLUMNS = 100  # of the terminal that commands print to


def with_outputs(page: Path) -> str:
    """The page's text as it should be; its blocks run in the working directory."""
    namespace: dict = {}

    def shown(block: re.Match) -> str:
        code = block["code"]
        text = f"```{block['language']}\n{code}```\n"
        if block["language"] == "python":
            printed = printed_by(code, namespace, page.name)
        elif block["output"]:
            printed = said_by(code)
        else:
            return text
        return text + (f"\n```output\n{printed}```\n" if printed else "")

    return BLOCK.sub(shown, page.read_text())


def printed_by(code: str, namespace: dict, name: str) -> str:
    """What Python code prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), namespace)
    return _stripped(out.getvalue())


def said_by(line: str) -> str:
    """What a `lens-audio` command prints."""
    words = shlex.split(line)
    for word in words:
        if word.endswith(".wav"):
            shutil.copy(la.testbed.demo_clip(), word)
    result = CliRunner(env={"COLUMNS": str(COLUMNS)}).invoke(app, words[1:])
    if result.exit_code:
        raise RuntimeError(f"{line}: {result.output}")
    return _stripped(result.stdout)


def _stripped(text: str) -> str:
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    return "".join(f"{line}\n" for line in lines)


def agree(shown: str, printed: str) -> bool:
    """Whether two texts are alike but for spaces, with decimal numbers to the last digit shown."""
    if _without_numbers(shown) != _without_numbers(printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(_near(Decimal(one), Decimal(other)) for one, other in pairs)


def _without_numbers(text: str) -> str:
    return "".join(NUMBER.sub("#", text).split())  # a minus takes the place of a space


def _near(shown: Decimal, printed: Decimal) -> bool:
    exponent = int(shown.as_tuple().exponent)  # of the last digit
    return abs(shown - printed) <= (Decimal(10) ** exponent if exponent < 0 else 0)


if __name__ == "__main__":
    for each in map(Path.resolve, map(Path, sys.argv[1:])) if sys.argv[1:] else PAGES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text = with_outputs(each)
        if text != each.read_text():
            each.write_text(text)
            print(os.path.relpath(each))
