"""What the package is made of, counted: `python benchmarks/size.py [FOLDER ...]`, side by side.

A folder is one that holds `lens_audio/`; by default this one. Another version is at hand with
`git worktree add ../before COMMIT`.
"""

import ast
import sys
from pathlib import Path

MANY = 8  # arguments


def counts(package: Path) -> dict[str, int]:
    """How much there is of what in a package's files."""
    files = sorted(package.rglob("*.py"))
    trees = {file: ast.parse(file.read_text()) for file in files}
    nodes = {file: list(ast.walk(tree)) for file, tree in trees.items()}
    functions = [n for all_of in nodes.values() for n in all_of if _is_function(n)]
    return {
        "files": len(files),
        "lines": sum(len(file.read_text().splitlines()) for file in files),
        "files over 400 lines": sum(len(f.read_text().splitlines()) > 400 for f in files),
        "classes": sum(isinstance(n, ast.ClassDef) for some in nodes.values() for n in some),
        "functions": len(functions),
        f"functions with {MANY} or more arguments": sum(_n_args(f) >= MANY for f in functions),
        "functions over 50 lines of code": sum(_n_lines(f) > 50 for f in functions),
        "private names used across files": sum(map(_private, trees.values())),
        "public functions without docstring": sum(map(_undocumented, trees.values())),
        "imports of our own inside a function": sum(map(_n_inner_imports, functions)),
    }


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _n_args(function: ast.FunctionDef) -> int:
    args = function.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _n_lines(function: ast.FunctionDef) -> int:
    """Lines of code: without the signature and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def _private(tree: ast.Module) -> int:
    """Private names imported from, or read of, what another file defines."""
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lens_audio")
        for alias in node.names
    ]
    own = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _is_self(n.value)}
    own |= {n.name for n in ast.walk(tree) if _is_function(n) or isinstance(n, ast.ClassDef)}
    own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg}
    read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} - own
    names = [*imported, *(name for name in read if not _is_of_libraries(name))]
    return len([name for name in names if name.startswith("_") and not name.startswith("__")])


def _is_of_libraries(name: str) -> bool:
    return name in ("_C", "_forward_hooks", "_backward_hooks", "_forward_pre_hooks", "_apply")


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _undocumented(tree: ast.Module) -> int:
    """Public functions, and public methods of public classes, without a docstring."""
    holders = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and _public(n.name))]
    return sum(
        _is_function(node) and _public(node.name) and not ast.get_docstring(node)
        for holder in holders
        for node in holder.body
        if not any("overload" in ast.unparse(d) or ".setter" in ast.unparse(d)
                   for d in getattr(node, "decorator_list", []))
    )  # fmt: skip


def _public(name: str) -> bool:
    return not name.startswith("_")


def _n_inner_imports(function: ast.FunctionDef) -> int:
    return sum(
        isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lens_audio")
        for node in ast.walk(function)
    )


def main() -> None:
    """Print the counts of each folder in a column."""
    folders = [Path(a) for a in sys.argv[1:]] or [Path(__file__).parent.parent]
    columns = [counts(folder / "lens_audio") for folder in folders]
    width = max(map(len, columns[0]))
    print(" " * width, *(f"{folder.resolve().name:>12}" for folder in folders))
    for name in columns[0]:
        print(f"{name:{width}}", *(f"{column[name]:12,}" for column in columns))


if __name__ == "__main__":
    main()
