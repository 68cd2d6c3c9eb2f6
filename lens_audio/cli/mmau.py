"""`lens-audio mmau`: the paper's evaluation on a benchmark."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio.cli.checkpoint import CheckpointFiles, load_spread
from lens_audio.cli.checks import numbers, shown_name
from lens_audio.cli.commands.mmau import Mmau
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.items import AudioQADataset, refuse_missing
from lens_audio.evals.processes import Processes
from lens_audio.evals.protocol import Settings
from lens_audio.evals.results import Results
from lens_audio.evals.run import evaluate, split
from lens_audio.evals.runner import Spent
from lens_audio.evals.scores import ALL
from lens_audio.plots.theme import points, share
from lens_audio.sites import head_name
from lens_audio.steering import AudioSilenceSteering


def run(request: Mmau) -> None:
    """Load the model, evaluate, print, write the files."""
    console = Console(highlight=False)
    settings = settings_of(request, request.questions or SyntheticQA)
    checkpoint = CheckpointFiles.read(request.model, request.device)
    steering = None
    if request.steering is not None:
        steering = AudioSilenceSteering.load(request.steering)
        steering.check(checkpoint)
    settings.fitting(steering, checkpoint.n_heads)
    dataset = request.questions or SyntheticQA.make(request.items)
    items = request.selected(dataset)
    refuse_missing(items)
    split(dataset, items, settings, steering)
    with Processes(request.device) as processes:
        model = load_spread(request.model, processes.device, request.device_map)
        results, spent = evaluate(
            model, dataset, request.out, settings, items=items, steering=steering,
            processes=processes, workers=request.workers,
        )  # fmt: skip
        if processes.is_main:
            command = request.shown(with_defaults=True)
            page = results.write(request.out, command, shown_name(request.model))
            show(results, spent, console)
            console.print(f"Page: {escape(str(page))}", soft_wrap=True)


def settings_of(request: Mmau, dataset: AudioQADataset | type[SyntheticQA]) -> Settings:
    """The settings asked for.

    Raises:
        ValueError: for those that make no sense.
    """
    return Settings(
        wording=wording(request.prompt or dataset.prompt),
        runs=tuple(word.strip() for word in request.runs.split(",")),
        calibration_share=request.calibration_share,
        seed=request.seed,
        answer_by=request.answer_by,
        max_new_tokens=request.max_new_tokens,
        ks=numbers(request.ks, int, "--ks"),
        betas=numbers(request.betas, float, "--betas"),
        adaptive=request.adaptive,
        draws=request.draws,
        batch_size=request.batch_size,
        max_seconds=request.max_seconds,
    )


def show(results: Results, spent: Spent, console: Console) -> None:
    """Print every run's accuracy, and how long it took."""
    show_accuracy(results, console)
    if results.chosen is not None:
        heads = " ".join(head_name(*head) for head in results.chosen.steering.heads)
        console.print(f"Specialists {heads}, beta {results.chosen.steering.beta:g}")
    if results.failed:
        console.print(f"{len(results.failed)} items could not be asked; the page says why")
    if spent.total:
        waited = spent.waiting / spent.total
        console.print(f"{spent.total:.1f} s in batches, {waited:.1%} of it waiting for data")


def show_accuracy(results: Results, console: Console) -> None:
    """Print every run's accuracy, and the points by which it differs from the base."""
    if results.accuracy is None or results.comparison is None:
        return
    version = f"{results.dataset.name} ({results.dataset.version})"
    table = Table(
        "run",
        "n",
        "accuracy [95 %]",
        "points against base [95 %]",
        "p",
        title=escape(f"{version}; intervals over items"),
    )
    against = results.comparison.set_index("run").to_dict("index")
    for row in results.accuracy[results.accuracy["group"] == ALL].to_dict("records"):
        accuracy = share(row["accuracy"], row["low"], row["high"])
        change, told = against.get(row["run"]), ("", "")
        if change is not None:
            gained = points(change["change"], change["low"], change["high"])
            told = (gained, f"{change.get('p_corrected', change['p_value']):.2g}")
        table.add_row(row["run"], str(row["n"]), escape(accuracy), *map(escape, told))
    console.print(table)
