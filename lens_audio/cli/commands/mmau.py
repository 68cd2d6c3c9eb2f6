"""The options of `lens-audio mmau`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_audio.cli.checks import (
    check_device_map,
    check_readable,
    checkpoint_files,
    numbers,
)
from lens_audio.cli.options import (
    Adaptive,
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
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks import read_mmau
from lens_audio.evals.benchmarks.mmau import MMAU
from lens_audio.evals.items import AudioQADataset, AudioQAItem, select, with_recordings
from lens_audio.files import check_folder


@dataclass
class Mmau(Command):
    """Answer a benchmark with the model as it is, steered, and under every control; resumable."""

    data: Annotated[
        Path | None,
        typer.Argument(
            help="MMAU's JSON file (or JSON lines), or a parquet file or a folder of them."
        ),
    ] = None
    audio: AudioFolder = None
    dataset: Annotated[
        Literal["mmau", "testbed"],
        typer.Option(help="testbed: questions about synthesised sounds, which need no data."),
    ] = "mmau"
    benchmark_version: Annotated[
        str | None,
        typer.Option(help="first or v05.15.25. Default: first for JSON, v05.15.25 for parquet."),
    ] = None
    items: Annotated[
        int,
        typer.Option(
            "-n", "--items", min=2, help="Number of testbed items for each kind of caption."
        ),
    ] = 200
    limit: Limit = None
    task: Annotated[str | None, typer.Option(help="Use only sound, music or speech items.")] = None
    difficulty: Annotated[str | None, typer.Option(help="Use only easy, medium or hard items.")] = (
        None
    )
    skip_missing: SkipMissing = False
    prompt: Annotated[
        str | None,
        typer.Option(
            help="r1-aqa, plain, brief, lettered, verbatim, or a text file with {question}, and "
            "{choices} or {lettered} if it names them. Default: r1-aqa; plain for the testbed."
        ),
    ] = None
    answer_by: AnswerBy = "generation"
    max_new_tokens: MaxNewTokens = 32
    runs: Annotated[
        str, typer.Option(help="The runs, separated by commas; base must be among them.")
    ] = "base,steered,random,fixed,silenced"
    calibration_share: Annotated[
        float, typer.Option(help="Share of the items on which heads and beta are chosen.")
    ] = 0.3
    seed: Seed = 0
    ks: Annotated[str, typer.Option(help="Numbers of specialist heads to try.")] = "2,4,8,12"
    betas: Annotated[str, typer.Option(help="Strengths to try; 0 is always tried.")] = "0.5,1,2,4,8"
    adaptive: Adaptive = "constant"
    draws: Annotated[
        int, typer.Option(min=1, help="Number of sets of random heads, each a run.")
    ] = 3
    steering: Annotated[
        Path | None,
        typer.Option(
            help="Steering that was calibrated before (.safetensors); then no items are set apart."
        ),
    ] = None
    max_seconds: HeardSeconds = None
    model: Model = None
    device: Device = None
    device_map: DeviceMap = None
    batch_size: BatchSize = 8
    workers: Workers = 2
    out: ResultsFolder = Path("lens-audio-mmau")
    debug: Debug = False

    def check(self) -> None:
        """Refuse a folder that cannot be written, numbers, prompts, steering and data that are none."""
        check_folder(self.out)
        numbers(self.ks, int, "--ks")
        numbers(self.betas, float, "--betas")
        if not 0 < self.calibration_share < 1:
            raise ValueError(
                f"--calibration-share must lie between 0 and 1, not {self.calibration_share}"
            )
        if self.prompt is not None:
            wording(self.prompt)
        if self.steering is not None:
            check_readable(self.steering, "file of steering")
        check_device_map(self.device_map, self.device)
        checkpoint_files(self.model)
        if self.questions is not None:
            self.selected(self.questions)

    @cached_property
    def questions(self) -> MMAU | None:
        """The questions asked for; None: the testbed's.

        Raises:
            OSError, ValueError: for data that is missing or no benchmark.
        """
        if self.dataset == "testbed":
            return None
        if self.data is None:
            raise ValueError(
                "give MMAU's JSON file or its parquet files, or --dataset testbed for synthesised sounds"
            )
        return read_mmau(self.data, self.audio, self.benchmark_version)

    def selected(self, dataset: AudioQADataset) -> list[AudioQAItem]:
        """The items asked for.

        Raises:
            ValueError: if no items are left.
        """
        items = select(dataset.items, task=self.task, difficulty=self.difficulty)
        return (with_recordings(items) if self.skip_missing else items)[: self.limit]
