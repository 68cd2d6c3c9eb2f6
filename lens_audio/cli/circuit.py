"""`lens-audio circuit`: the edges that make two answers differ, and how faithful they are."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import HookedAudioTransformer, testbed
from lens_audio.analysis import circuits
from lens_audio.analysis.circuits.effects import effects_of
from lens_audio.analysis.circuits.faithfulness import circuit_metrics
from lens_audio.analysis.circuits.pairs import PairWithMetric
from lens_audio.analysis.metrics import logit_diff
from lens_audio.cli.both_answers import (
    ask,
    check_comparable,
    compared,
    show_answers,
    two_answers,
)
from lens_audio.cli.checkpoint import CheckpointFiles, load
from lens_audio.cli.commands.circuit import PAIRS, CircuitCommand
from lens_audio.cli.two_recordings import TwoRecordings, load_pair, read_excerpts
from lens_audio.data import Pair
from lens_audio.files import write_text
from lens_audio.plots.pages.circuit import (
    EDGE_COLUMNS,
    FAITHFULNESS_COLUMNS,
    FoundCircuit,
    circuit_page,
)
from lens_audio.plots.report import write_page
from lens_audio.tables import table_text as csv_text
from lens_audio.testbed.scenes import ScenePair

SEED = 7  # of the synthetic pairs
SIZES = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280)  # of circuits, in edges; and all


def run(request: CircuitCommand) -> None:
    """Do all of it; nothing is written before everything is done."""
    progress = Console(stderr=True)
    checkpoint = CheckpointFiles.read(request.model, request.device)
    scenes = []
    if request.clean is None:
        scenes = testbed.make_scene_pairs(request.pairs or PAIRS, SEED)
        checkpoint.check_items([item for pair in scenes for item in pair])
    asked = TwoRecordings.of_scenes(scenes[0]) if scenes else TwoRecordings.of(request)
    excerpts = read_excerpts(checkpoint, asked, request)
    loaded, notes = load_pair(checkpoint, asked, excerpts)
    check_comparable(checkpoint, asked)
    model = load(request.model, request.device)
    pair = loaded.to(model.device)
    with progress.status("asking about both recordings"):
        candidates, runs = ask(model, asked, excerpts, loaded)
        answers = compared(model, asked, runs)
    tokens = [token for _, token in answers]
    found_on, judged_on = halves(model, scenes, pair, tokens)
    with progress.status("scoring edges"):
        graph = circuits.edges(model, found_on, method=request.method)
        few = graph.greedy(min(request.edges, len(graph)))
    with progress.status("running circuits"):
        curve = faithfulness(model, judged_on, graph, request.edges)
    effects = effects_of(model, pair, *tokens)
    found = FoundCircuit(
        both=two_answers(request, asked, candidates, runs, effects.totals, answers, notes),
        graph=few,
        n_all=len(graph),
        curve=curve,
        n_found_on=sum(len(one) for one, _ in found_on),
        n_judged_on=sum(len(one) for one, _ in judged_on),
        are_apart=bool(scenes),
        effects=effects,
        top=request.top,
    )
    write_text(request.table, table_text(found, request.table.suffix))
    write_page(request.out, circuit_page(found))
    console = Console(highlight=False)
    show(found, console)
    files = f"\nTable: {escape(str(request.table))}\nPage: {escape(str(request.out))}"
    console.print(files, soft_wrap=True)


def halves(
    model: HookedAudioTransformer, scenes: Sequence[ScenePair], pair: Pair, tokens: Sequence[int]
) -> tuple[list[PairWithMetric], list[PairWithMetric]]:
    """The pairs on which edges are found, and those on which they are judged: of one pair the same.

    Args:
        scenes: the testbed's pairs; none where `pair` is of the user's recordings.
        tokens: the answers that are compared on `pair`.
    """
    if not scenes:
        one: list[PairWithMetric] = [(pair, logit_diff(*tokens))]
        return one, one
    half = (len(scenes) + 1) // 2
    first, second = scenes[:half], scenes[half:]
    return (
        list(circuits.pairs_of_items(model, first)),
        list(circuits.pairs_of_items(model, second)),
    )


def faithfulness(
    model: HookedAudioTransformer, pairs: Any, graph: circuits.Graph, n_shown: int
) -> pd.DataFrame:
    """Columns n_edges, faithfulness, low and high; the last two are NaN of a single pair."""
    n = len(graph)
    sizes = sorted({size for size in (*SIZES, n_shown) if size < n} | {n})
    if sum(len(pair) for pair, _ in pairs) > 1:
        shares = [size / n for size in sizes]
        curve = circuits.faithfulness_curve(model, pairs, graph, shares=shares, choose="greedy")
        return curve.table.drop(columns="share")
    several = [graph.greedy(size) for size in sizes]
    found = [one.faithfulness for one in circuit_metrics(model, pairs, several)]
    n_edges = [len(circuit) for circuit in several]
    return pd.DataFrame(
        {"n_edges": n_edges, "faithfulness": found, "low": float("nan"), "high": float("nan")}
    )


def table_text(found: FoundCircuit, suffix: str) -> str:
    """The circuit's edges in the order in which they join it, as CSV, or as JSON with all else."""
    edges, both = found.edges, found.both
    if suffix == ".csv":
        return csv_text(edges)
    facts = {
        "question": both.question,
        "cautions": both.cautions,
        **{
            run_.role: {"recording": run_.name, "heard": run_.heard, "answer": run_.answer}
            for run_ in (both.clean, both.corrupted)
        },
        "metric": f"logit({both.answer}) - logit({both.instead})",
        "about": found.graph.about,
        "found_on_pairs": found.n_found_on,
        "judged_on_pairs": found.n_judged_on,
        "judged_on_others": found.are_apart,
        "model": both.model_name,
        "versions": both.versions,
        "faithfulness": json.loads(found.curve.to_json(orient="records", double_precision=15)),
        "edges": json.loads(edges.to_json(orient="records", double_precision=15)),
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def show(found: FoundCircuit, console: Console) -> None:
    """Print both answers, the strongest edges, and how faithful circuits are."""
    both = found.both
    show_answers(both, console)
    console.print(
        f"Metric     logit({escape(both.answer)}) − logit({escape(both.instead)}): "
        f"clean {both.clean.logit_difference:.2f}, "
        f"corrupted {both.corrupted.logit_difference:.2f}"
    )
    console.print(f"\n[bold]Strongest edges[/]\n{escape(found.said_found)}")
    _print_table(EDGE_COLUMNS, found.strongest, console)
    console.print(f"\n[bold]Faithfulness[/]\n{escape(found.said_judged)}")
    _print_table(FAITHFULNESS_COLUMNS, found.faithfulness_rows, console)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table()
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
