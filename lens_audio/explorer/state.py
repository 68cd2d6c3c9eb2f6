"""What the explorer shows, as one JSON file that opens it again."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lens_audio import files
from lens_audio.analysis.circuit import Circuit, Head
from lens_audio.analysis.circuits import METHODS, Graph, Nodes
from lens_audio.analysis.listening import check_heads
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.explorer.session import METRICS, ROLES, Session, Span

FORMAT = "lens_audio explorer 1"
MODES = {"as it is": None, "keep only these heads": True, "knock these heads out": False}
DIRECTIONS = ("denoise", "noise")
MASS = "audio mass"
DIFFERENCE = f"{MASS}, clean - corrupted"
NO_HEADS = Circuit(())
EDGE_METHODS = tuple(method for method in METHODS if method != "exact")  # a run an edge: too slow
MOST_EDGES = 100  # of a graph that is redrawn while one looks
NEAR = 0.02  # by how much answers' probabilities may differ from device to device


@dataclass(frozen=True)
class SweepState:
    """What is patched, and the last result."""

    site: str = "z"
    by: str = "head"
    direction: str = "denoise"
    window: float = 0.25  # seconds
    result: PatchingResult | None = None


@dataclass(frozen=True)
class FoundEdges:
    """Edges, and what was asked of them."""

    graph: Graph  # keeps the first of its greedy search, `MOST_EDGES` at most
    metric: tuple[str, int, int]  # that they were found with
    faithfulness: dict[int, float] = field(default_factory=dict)  # of the first so many


@dataclass(frozen=True)
class EdgesState:
    """How edges are found, how many are shown, and those that were found."""

    method: str = "eap"
    n_edges: int = 20
    found: FoundEdges | None = None


@dataclass(frozen=True)
class State:
    """All that a user chose, wrote or computed."""

    selection: Head
    metric: tuple[str, int, int]  # as `Session.metric` takes it
    working_set: Circuit = NO_HEADS
    mode: str = "as it is"
    run: str = "clean"
    clip: int = 0
    span: Span | None = None
    show: str = MASS
    sweep: SweepState = SweepState()
    edges: EdgesState = EdgesState()
    notes: str = ""

    def to_json(self, session: Session) -> str:
        """With what it belongs to: the model's name, the question, the answers."""
        saved = about(session) | {
            "run": self.run,
            "clip": self.clip,
            "span": self.span,
            "show": self.show,
            "selection": self.selection,
            "working_set": self.working_set.heads,
            "mode": self.mode,
            "metric": _told_metric(self.metric, session),
            "sweep": asdict(replace(self.sweep, result=None))
            | {"result": _told(self.sweep.result)},
            "edges": {
                "method": self.edges.method,
                "n_edges": self.edges.n_edges,
                "found": _told_edges(self.edges.found, session),
            },
            "notes": self.notes,
        }
        return json.dumps(saved, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def about(session: Session) -> dict[str, Any]:
    """What a state belongs to."""
    return {
        "format": FORMAT,
        "model": session.model_title,
        "question": session.question,
        "choices": None if session.choices is None else list(session.choices),
        "candidates": session.candidates,
        "answers": session.unedited,
    }


def saved_choices(path: str | os.PathLike[str]) -> list[str] | None:
    """The choices that a state was saved with, None for the likeliest tokens.

    Raises:
        FileNotFoundError, ValueError: for no such file, or one that is no state.
    """
    return _field(_object(path), "choices", lambda it: None if it is None else _texts(it), path)


def read_state(path: str | os.PathLike[str], session: Session) -> State:
    """What `State.to_json` gave, checked against the question that is to be explored.

    Raises:
        FileNotFoundError, ValueError: for no such file, or a field that does not fit, named.
    """
    saved = _object(path)

    def of(name: str, check: Callable[[Any], Any]) -> Any:
        return _field(saved, name, check, path)

    of("question", lambda it: _equal(it, session.question))
    of("candidates", lambda it: _equal(it, session.candidates))
    of("answers", lambda it: _near(it, session.unedited))
    clip = of("clip", lambda it: _one_of(it, tuple(range(len(session.clean.clips_of(0))))))
    sweep = of("sweep", lambda it: _sweep(it, session))
    shown = (MASS, DIFFERENCE, *([recovery_name(sweep.result)] if sweep.result else []))
    return State(
        selection=of("selection", lambda it: _heads([it], session).heads[0]),
        metric=of("metric", lambda it: _metric(it, session)),
        working_set=of("working_set", lambda it: _heads(it, session) if it else NO_HEADS),
        mode=of("mode", lambda it: _one_of(it, tuple(MODES))),
        run=of("run", lambda it: _one_of(it, ROLES)),
        clip=clip,
        span=of("span", lambda it: session.check_span(it, clip)),
        show=of("show", lambda it: _one_of(it, shown)),
        sweep=sweep,
        edges=of("edges", lambda it: _edges(it, session)) if "edges" in saved else EdgesState(),
        notes=of("notes", _text),
    )


def recovery_name(result: PatchingResult) -> str:
    """What the recovery of a sweep is called above the map of heads."""
    return f"recovery of {result.metrics[0]}, {result.about['site']}, {result.about['direction']}"


def write_state(path: str | os.PathLike[str], state: State, session: Session) -> Path:
    """Write a state whole or not at all."""
    return files.write_text(path, state.to_json(session))


def _object(path: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no saved explorer at {path}")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no saved explorer: {error}") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path}: format: expected {FORMAT!r}; Explorer.save writes it")
    return saved


def _field(saved: dict[str, Any], name: str, check: Callable[[Any], Any], path: Any) -> Any:
    if name not in saved:
        raise ValueError(f"{path}: {name} is missing")
    try:
        return check(saved[name])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: {name}: {error}") from None


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"a text, not {given!r}")
    return given


def _texts(given: Any) -> list[str]:
    if not isinstance(given, list):
        raise ValueError(f"a list of texts, not {given!r}")
    return [_text(part) for part in given]


def _equal(given: Any, here: Any) -> None:
    if given != here:
        raise ValueError(f"saved with {given!r}, but here it is {here!r}")


def _near(given: dict[str, list[float]], here: dict[str, list[float]]) -> None:
    """The same model answers the same recordings alike."""
    for role in ROLES:
        if not np.allclose(given[role], here[role], atol=NEAR, rtol=0):
            raise ValueError(
                f"the {role} run's probabilities are not those that were saved: another model or "
                "another recording"
            )


def _one_of(given: Any, possible: tuple[Any, ...]) -> Any:
    if given not in possible or isinstance(given, bool):
        raise ValueError(f"{given!r}; possible: {', '.join(map(str, possible))}")
    return given


def _heads(given: Any, session: Session) -> Circuit:
    circuit = Circuit.of([tuple(head) for head in given])
    check_heads(circuit.heads, session.model.cfg.n_layers, session.model.cfg.n_heads)
    return circuit


def _metric(given: Any, session: Session) -> tuple[str, int, int]:
    words = session.candidates
    of, against = (words.index(_one_of(given[name], tuple(words))) for name in ("of", "against"))
    return _one_of(given["name"], METRICS), of, against


def _told_metric(metric: tuple[str, int, int], session: Session) -> dict[str, str]:
    name, answer, instead = metric
    words = session.candidates
    return {"name": name, "of": words[answer], "against": words[instead]}


def _edges(given: Any, session: Session) -> EdgesState:
    found = None if given["found"] is None else _found_edges(given["found"], session)
    most = MOST_EDGES if found is None else len(found.graph)
    return EdgesState(
        method=_one_of(given["method"], EDGE_METHODS),
        n_edges=_one_of(given["n_edges"], tuple(range(1, most + 1))),
        found=found,
    )


def _told_edges(found: FoundEdges | None, session: Session) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "metric": _told_metric(found.metric, session),
        "faithfulness": list(map(list, found.faithfulness.items())),
        "edges": found.graph.to_dataframe().values.tolist(),  # sender, receiver, input, score
        "about": found.graph.about,
    }


def _found_edges(given: Any, session: Session) -> FoundEdges:
    nodes, about = Nodes.of(session.model.cfg), given["about"]
    scores = torch.zeros(nodes.is_edge.shape, dtype=torch.float64)
    kept = torch.zeros_like(nodes.is_edge)
    for sender, receiver, input, score in given["edges"]:
        at = nodes.place(sender, receiver, input)
        scores[at], kept[at] = float(score), True
    graph = Graph(nodes, scores, kept, about)
    if not 1 <= len(graph) <= MOST_EDGES:
        raise ValueError(f"{len(graph)} edges; possible: 1 to {MOST_EDGES}")
    _one_of(about["method"], METHODS), _one_of(about["n_examples"], (1,))
    faithfulness = {int(n): float(value) for n, value in given["faithfulness"]}
    return FoundEdges(graph, _metric(given["metric"], session), faithfulness)


def _sweep(given: Any, session: Session) -> SweepState:
    kinds = session.kinds(_text(given["site"]))
    window = float(given["window"])
    if not 0 < window <= 30:
        raise ValueError(f"a window of {window} s; possible: more than 0, at most 30")
    return SweepState(
        site=given["site"],
        by=_one_of(given["by"], tuple(kinds)),
        direction=_one_of(given["direction"], DIRECTIONS),
        window=window,
        result=None if given["result"] is None else _result(given["result"]),
    )


def _told(result: PatchingResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    numbers = {name: _listed(getattr(result, name)) for name in ("values", "base", "source")}
    axes = {name: list(map(str, labels)) for name, labels in result.axes.items()}
    return {"axes": axes, **numbers, "about": result.about}


def _result(given: Any) -> PatchingResult:
    values, base, source = (_tensor(given[name]) for name in ("values", "base", "source"))
    axes, about = given["axes"], given["about"]
    shape = tuple(len(_texts(labels)) for labels in axes.values())
    if tuple(axes)[:1] + tuple(axes)[-1:] != ("metric", "example") or values.shape != shape:
        raise ValueError(f"result: values of shape {tuple(values.shape)}, axes of {shape}")
    if not base.shape == source.shape == (shape[0], shape[-1]):
        raise ValueError("result: base and source need one number for each metric and example")
    _text(about["site"]), _one_of(about["direction"], DIRECTIONS)
    return PatchingResult(values, axes, base, source, about)


def _listed(values: Tensor) -> Any:
    """Lists with null for NaN, which JSON does not have."""
    array = values.numpy().astype(object)
    array[values.isnan().numpy()] = None
    return array.tolist()


def _tensor(given: Any) -> Tensor:
    return torch.tensor(np.array(given, dtype=float), dtype=torch.float32)
