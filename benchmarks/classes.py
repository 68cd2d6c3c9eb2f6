"""Which classes came with which commits: `python benchmarks/classes.py COMMIT [COMMIT ...]`.

For each commit the classes that were new in it and are still here, a line each, and the number of
those that have gone since; the first commit stands for all before it. A class is told by its name.
"""

import ast
import io
import subprocess
import sys
import tarfile


def classes(commit: str) -> dict[str, str]:
    """The classes of the package in a commit, each with the first line of its docstring."""
    archive = subprocess.run(
        ["git", "archive", commit, "lens_audio"], check=True, capture_output=True
    ).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.name.endswith(".py"):
                file = tar.extractfile(member)
                assert file is not None
                found |= {node.name: _line(node) for node in _classes(file.read())}
    return found


def _classes(source: bytes) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def _line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").split("\n")[0]


def main() -> None:
    """Print what each commit brought."""
    now, seen = classes("HEAD"), set()
    for commit in [*sys.argv[1:], "HEAD"]:
        new = {name: line for name, line in classes(commit).items() if name not in seen}
        seen |= new.keys()
        here = [name for name in new if name in now]
        print(f"\n{commit}: {len(here)} still here, {len(new) - len(here)} gone or renamed")
        for name in sorted(here, key=str.lower):
            print(f"  {name}: {now[name]}")
    print(f"\n{len(now)} names now")


if __name__ == "__main__":
    main()
