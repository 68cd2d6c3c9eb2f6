"""`--run NAME=KIND:OPTION=VALUE,…`: the runs that a command line can name, read without torch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lens_audio.cli.checks import check_readable

FILE = ".safetensors"


def _layers(text: str) -> list[int]:
    """Layers 4-7, 4+5 or 3."""
    found: list[int] = []
    for part in text.split("+"):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if span is None:
            raise ValueError(f"layers are 3, 4-7 or 4+5, not {text!r}")
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise ValueError(f"layers {part!r} end before they begin")
        found += range(first, last + 1)
    return found


def _heads(text: str) -> list[str]:
    """Heads L2H1+L2H4."""
    heads = text.split("+")
    if not all(re.fullmatch(r"L\d+H\d+", head) for head in heads):
        raise ValueError(f"heads are L2H1 or L2H1+L2H4, not {text!r}")
    return heads


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _integer(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


PLACE: Mapping[str, Callable[[str], Any]] = {
    "keys": str, "queries": str, "layers": _layers, "heads": _heads,
}  # fmt: skip
KINDS: dict[str, Mapping[str, Callable[[str], Any]]] = {
    "silenced": {},
    "noise": {"seed": _integer},
    "knock-out": PLACE,
    "scale": {"factor": _number, **PLACE},
    "ablate": {"site": str, "how": str, "layers": _layers, "heads": _heads},
    "contrastive": {
        "alpha": _number, "against": str, "caption": str, "plausibility": _number, "seed": _integer,
    },
    FILE: {"strength": _number},
}  # fmt: skip


@dataclass(frozen=True)
class RunOption:
    """One `--run`: its name, its kind (of `KINDS`) or file, and its options."""

    name: str
    kind: str
    options: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> "RunOption":
        """What `NAME=KIND:OPTION=VALUE,…` says; without NAME= it is called as its kind is.

        Raises:
            OSError: for a file that is not there.
            ValueError: for anything else, saying what is possible.
        """
        said = re.fullmatch(r"(?:([^=:]+)=)?([^:=]+)(?::(.*))?", text, flags=re.DOTALL)
        if said is None:
            raise ValueError(f"--run {text!r}: give NAME=KIND or NAME=KIND:OPTION=VALUE,…")
        kind, options = said[2].strip(), {}
        known = KINDS.get(FILE if kind.endswith(FILE) else kind)
        if known is None or kind == FILE:
            there = ", ".join(name for name in KINDS if name != FILE)
            raise ValueError(
                f"--run {text!r}: there is no kind {kind!r}; there are {there}, or a file of steering "
                f"({FILE})"
            )
        if kind.endswith(FILE):
            check_readable(kind, "file of steering")
        for part in filter(None, (said[3] or "").split(",")):
            key, equals, value = part.partition("=")
            if not equals or key not in known:
                these = ", ".join(known) or "none"
                raise ValueError(f"--run {text!r}: no option {part!r}; {kind} has {these}")
            try:
                options[key] = known[key](value)
            except ValueError as error:
                raise ValueError(f"--run {text!r}: {error}") from None
        name = said[1] or kind.removesuffix(FILE).replace("\\", "/").rpartition("/")[2]
        return cls(name.strip(), kind, options)


def read_runs(texts: list[str]) -> list[RunOption]:
    """All of them.

    Raises:
        OSError: for a file that is not there.
        ValueError: for what is no run, or a name given twice.
    """
    runs = [RunOption.read(text) for text in texts]
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two runs are called {twice[0]!r}; give each a name: --run NAME=KIND")
    return runs
