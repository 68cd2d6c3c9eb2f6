"""The options of `lens-audio eval`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_audio.cli.checks import check_device_map, checkpoint_files
from lens_audio.cli.options import (
    AnswerBy,
    AudioFolder,
    BatchSize,
    Command,
    Debug,
    Device,
    DeviceMap,
    HeardSeconds,
    Limit,
    MaxNewTokens,
    Model,
    ResultsFolder,
    Seed,
    SkipMissing,
    Workers,
)
from lens_audio.cli.run_options import RunOption, read_runs
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks import read
from lens_audio.evals.items import AudioQADataset, AudioQAItem, select, with_recordings
from lens_audio.files import check_folder

SYNTHESISED = ("testbed", "scenes")


@dataclass
class Eval(Command):
    """Answer a benchmark with the model as it is and under any interventions; resumable."""

    benchmark: Annotated[
        # Those of `evals.benchmarks.BENCHMARKS`, and `SYNTHESISED`.
        Literal["mmau", "mmar", "rulistening", "alme", "object-hallucination", "testbed", "scenes"],
        typer.Argument(
            help="Which questions; testbed and scenes are synthesised and need no data."
        ),
    ]
    data: Annotated[
        Path | None,
        typer.Argument(help="The benchmark's file, or a folder of MMAU's parquet files."),
    ] = None
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="A run, as NAME=KIND:OPTION=VALUE,…; may be given several times. Kinds: silenced, noise, "
            "knock-out, scale, ablate, contrastive, or a .safetensors file of steering.",
        ),
    ] = None
    controls: Annotated[
        int, typer.Option(min=0, help="Random controls of each run that has any.")
    ] = 1
    audio: AudioFolder = None
    items: Annotated[
        int,
        typer.Option("-n", "--items", min=2, help="How many items of a kind are synthesised."),
    ] = 100
    only: Annotated[
        list[str] | None,
        typer.Option(help="Use only items of a kind: task=sound; may be given several times."),
    ] = None
    limit: Limit = None
    skip_missing: SkipMissing = False
    prompt: Annotated[
        str | None,
        typer.Option(
            help="The prompt's name, or a text file with {question}. Default: the benchmark's own."
        ),
    ] = None
    answer_by: AnswerBy = "generation"
    max_new_tokens: MaxNewTokens = 32
    max_seconds: HeardSeconds = None
    seed: Seed = 0
    model: Model = None
    device: Device = None
    device_map: DeviceMap = None
    batch_size: BatchSize = 8
    workers: Workers = 2
    out: ResultsFolder = Path("lens-audio-eval")
    debug: Debug = False

    def check(self) -> None:
        """Refuse runs, prompts, data and checkpoints that are none, and a folder that cannot be written."""
        check_folder(self.out)
        _ = self.runs
        if self.prompt is not None:
            wording(self.prompt)
        check_device_map(self.device_map, self.device)
        checkpoint_files(self.model)
        if self.questions is not None:
            self.selected(self.questions)
        elif self.data is not None:
            raise ValueError(f"{self.benchmark} is synthesised: leave {self.data} out")

    @cached_property
    def runs(self) -> list[RunOption]:
        """What `--run` asks for."""
        return read_runs(self.run or [])

    @cached_property
    def questions(self) -> AudioQADataset | None:
        """The questions asked for; None: synthesised ones.

        Raises:
            OSError, ValueError: for data that is missing or no benchmark.
        """
        if self.benchmark in SYNTHESISED:
            return None
        if self.data is None:
            raise ValueError(
                f"give the file of {self.benchmark}, or the benchmark scenes or testbed"
            )
        return read(self.benchmark, self.data, self.audio)

    def selected(self, dataset: AudioQADataset) -> list[AudioQAItem]:
        """The items asked for.

        Raises:
            ValueError: if no items are left.
        """
        wanted: dict[str, str | None] = {}
        for text in self.only or []:
            name, equals, value = text.partition("=")
            if not equals or name not in dataset.groups:
                raise ValueError(f"--only {text!r}: give NAME=VALUE of {', '.join(dataset.groups)}")
            wanted[name] = value
        items = select(dataset.items, **wanted)
        return (with_recordings(items) if self.skip_missing else items)[: self.limit]
