"""What `lens-audio mmau` does."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import HookedAudioTransformer
from lens_audio.checkpoints.dispatch import dispatch
from lens_audio.cli.listen import shown_name
from lens_audio.cli.run_heads import load
from lens_audio.evals.batches import Spent
from lens_audio.evals.items import AudioQADataset, AudioQAItem, missing_audio, select
from lens_audio.evals.mmau import FIRST, MMAU, REVISED
from lens_audio.evals.mmau_parquet import read_parquet
from lens_audio.evals.page import points, share
from lens_audio.evals.processes import Processes
from lens_audio.evals.prompts import wording
from lens_audio.evals.protocol import Settings
from lens_audio.evals.results import Results
from lens_audio.evals.run import evaluate, refuse_missing
from lens_audio.evals.scores import ALL
from lens_audio.evals.testbed import SyntheticQA
from lens_audio.files import check_folder
from lens_audio.steering import AudioSilenceSteering

NAMES = ("data", "audio", "steering", "out")  # of which a command shows no folders


@dataclass(frozen=True)
class Request:
    """What the command line asked for; None means the default."""

    data: Path | None
    audio: Path | None
    dataset: str
    benchmark_version: str | None
    items: int
    limit: int | None
    task: str | None
    difficulty: str | None
    skip_missing: bool
    prompt: str | None
    answer_by: str
    max_new_tokens: int
    runs: str
    calibration_share: float
    seed: int
    ks: str
    betas: str
    adaptive: str
    draws: int
    steering: Path | None
    max_seconds: float | None
    model: str | None
    device: str | None
    device_map: str | None
    batch_size: int
    workers: int
    out: Path


def run(request: Request) -> None:
    """Read the data, load the model, evaluate, print, write the files."""
    check_folder(request.out)
    console = Console(highlight=False)
    dataset = read(request)
    items = chosen_items(request, dataset)
    settings = settings_of(request, dataset)
    processes = Processes(request.device)
    try:
        model = load_model(request, processes)
        steering = None
        if request.steering is not None:
            steering = AudioSilenceSteering.load(request.steering, model)
        results, spent = evaluate(
            model, dataset, request.out, settings, items=items, steering=steering,
            processes=processes, workers=request.workers,
        )  # fmt: skip
        if processes.is_main:
            page = results.write(request.out, shown_command(request))
            show(results, spent, console)
            console.print(f"Page: {escape(str(page))}", soft_wrap=True)
        processes.gather(None)  # the others stay until everything is written
    finally:
        processes.end()


def read(request: Request) -> AudioQADataset:
    """The benchmark asked for.

    Raises:
        FileNotFoundError, ValueError: for data that is missing or no benchmark.
    """
    if request.dataset == "testbed":
        return SyntheticQA.make(request.items)
    if request.data is None:
        raise ValueError(
            "give MMAU's JSON file or its parquet files, or --dataset testbed for the bundled sounds"
        )
    if request.data.is_dir() or request.data.suffix == ".parquet":
        return read_parquet(request.data, request.benchmark_version or REVISED)
    return MMAU.read_json(request.data, request.audio, request.benchmark_version or FIRST)


def chosen_items(request: Request, dataset: AudioQADataset) -> list[AudioQAItem]:
    """The items asked for, with their recordings.

    Raises:
        FileNotFoundError: for missing recordings, listed, unless they are to be skipped.
        ValueError: if no items are left.
    """
    items = select(dataset.items, task=request.task, difficulty=request.difficulty)
    if request.skip_missing:
        missing = {item.id for item in missing_audio(items)}
        items = [item for item in items if item.id not in missing]
    items = items[: request.limit]
    if not items:
        raise ValueError("none of the recordings are there")
    refuse_missing(items)
    return items


def settings_of(request: Request, dataset: AudioQADataset) -> Settings:
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
        ks=tuple(int(k) for k in request.ks.split(",")),
        betas=tuple(float(beta) for beta in request.betas.split(",")),
        adaptive=request.adaptive,
        draws=request.draws,
        batch_size=request.batch_size,
        max_seconds=request.max_seconds,
    )


def load_model(request: Request, processes: Processes) -> HookedAudioTransformer:
    """The checkpoint on this process's device, or spread over several.

    Raises:
        ValueError: for both.
    """
    if request.device_map is None:
        return load(request.model, processes.device)
    if processes.count > 1 or request.device is not None:
        raise ValueError("--device-map spreads one process's model; give it alone, to one process")
    return dispatch(load(request.model, "cpu"), request.device_map)


def show(results: Results, spent: Spent, console: Console) -> None:
    """Print every run's accuracy, and how long it took."""
    version = f"{results.dataset.name} ({results.dataset.version})"
    table = Table(
        "run", "n", "accuracy [95 %]", "points against base [95 %]", "p", title=escape(version)
    )
    if results.accuracy is not None and results.comparison is not None:
        against = results.comparison.set_index("run").to_dict("index")
        for row in results.accuracy[results.accuracy["group"] == ALL].to_dict("records"):
            change = against.get(row["run"])
            told = ("", "") if change is None else (points(change), f"{change['p_value']:.2g}")
            table.add_row(row["run"], str(row["n"]), escape(share(row)), *map(escape, told))
        console.print(table)
    if results.chosen is not None:
        heads = " ".join(f"L{layer}H{head}" for layer, head in results.chosen.steering.heads)
        console.print(f"Specialists {heads}, beta {results.chosen.steering.beta:g}")
    if results.failed:
        console.print(f"{len(results.failed)} items could not be asked: the page says why")
    if spent.total:
        waited = spent.waiting / spent.total
        console.print(f"{spent.total:.1f} s in batches, {waited:.1%} of it waiting for data")


def shown_command(request: Request) -> str:
    """The command that makes these results again, with names of files and folders but no paths."""
    words = ["lens-audio", "mmau"]
    for field in fields(request):
        value: Any = getattr(request, field.name)
        if field.name in NAMES and value is not None:
            value = value.name
        if field.name == "model" and value is not None:
            value = shown_name(value)
        if value is None or field.name in ("out", "workers") or value is False:
            continue
        if field.name == "data":
            words.append(value)
        else:
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)
