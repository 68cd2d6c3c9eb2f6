"""`lens-audio eval`: any benchmark under any runs."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import hooks, steering
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.cli.checkpoint import load_spread
from lens_audio.cli.checks import shown_name
from lens_audio.cli.commands.eval import Eval
from lens_audio.cli.mmau import show_accuracy
from lens_audio.cli.run_options import RunOption
from lens_audio.data.wording import wording
from lens_audio.evals.asking import Asking
from lens_audio.evals.benchmarks.scenes import SceneQA
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.items import AudioQADataset, refuse_missing
from lens_audio.evals.metrics import ACCURACY
from lens_audio.evals.processes import Processes
from lens_audio.evals.results import Results
from lens_audio.evals.run import evaluate
from lens_audio.evals.runs import Run, over_noise, silenced
from lens_audio.plots.pages.runs import metric_cells
from lens_audio.plots.theme import points

MADE: Mapping[str, Callable[..., Run]] = {
    "silenced": lambda: silenced,
    "noise": over_noise,
    "knock-out": lambda keys="audio", **where: hooks.knock_out_attention(keys=keys, **where),
    "scale": lambda factor=2.0, keys="audio", **where: hooks.scale_attention(
        keys=keys, factor=factor, **where
    ),
    "ablate": lambda site="z", **where: hooks.ablate(site, **where),
    "contrastive": steering.contrastive,
}


def run(request: Eval) -> None:
    """Load the model, evaluate, print, write the files."""
    dataset = request.questions or synthesised(request)
    items = request.selected(dataset)
    refuse_missing(items)
    asking = Asking(
        wording=wording(request.prompt or dataset.prompt),
        answer_by=request.answer_by,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        batch_size=request.batch_size,
        max_seconds=request.max_seconds,
    )
    with Processes(request.device) as processes:
        model = load_spread(request.model, processes.device, request.device_map)
        runs = {option.name: made(option, model) for option in request.runs}
        results, _ = evaluate(
            model, dataset, request.out, asking, runs=runs, controls=request.controls, items=items,
            processes=processes, workers=request.workers,
        )  # fmt: skip
        if processes.is_main:
            command = request.shown(with_defaults=True)
            page = results.write(request.out, command, shown_name(request.model))
            console = Console(highlight=False)
            show(results, console)
            console.print(f"Page: {escape(str(page))}", soft_wrap=True)


def synthesised(request: Eval) -> AudioQADataset:
    """Questions that need no data."""
    make = SceneQA.make if request.benchmark == "scenes" else SyntheticQA.make
    return make(request.items)


def made(option: RunOption, model: HookedAudioTransformer) -> Run:
    """The run that an option names.

    Raises:
        ValueError: for values that make no sense, or steering that the model does not fit.
    """
    if option.kind in MADE:
        return MADE[option.kind](**option.options)
    return of_file(option.kind, option.options, model)


def of_file(path: str, options: Mapping[str, Any], model: HookedAudioTransformer) -> Run:
    """Steering that was saved: a vector times its strength, or audio-silence steering of that beta."""
    found = steering.load_steering(path, model)
    if "strength" not in options:
        return found
    strength = options["strength"]
    if isinstance(found, steering.SteeringVector):
        return found.scaled(strength)
    return found.with_beta(strength)


def show(results: Results, console: Console) -> None:
    """Print every run's accuracy and what the benchmark reports."""
    show_accuracy(results, console)
    if results.metrics is not None and set(results.metrics["metric"]) != {ACCURACY}:
        table = Table("metric", "run", "value [95 %]", "points against base [95 %]")
        before = None
        for metric, *cells in metric_cells(results.metrics):
            table.add_row(*map(escape, ("" if metric == before else metric, *cells)))
            before = metric
        console.print(table)
    controls = results.against_controls
    for row in () if controls is None else controls.to_dict("records"):
        gained = points(row["change"], row["low"], row["high"])
        told = f"{row['run']}: {gained} points above its random controls, over {row['over']}"
        console.print(escape(told))
    if results.failed:
        console.print(f"{len(results.failed)} items could not be asked; the page says why")
