"""Every command: its help, its options, and what it refuses before anything heavy is imported.

A command is a dataclass here, whose fields are its options, and a file of the same name beside this
one, whose `run` is imported when the command runs. An option that is None was not given.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import (
    check_device_map,
    check_kept,
    check_named,
    check_outputs,
    check_readable,
    check_recording,
    checkpoint_files,
    numbers,
)
from lens_audio.cli.options import (
    Adaptive,
    AdaptiveOption,
    BatchSize,
    Choices,
    Command,
    Debug,
    Device,
    DtypeOption,
    End,
    MaxSeconds,
    Model,
    Page,
    Question,
    Seed,
    Start,
    Table,
    Top,
    above_zero,
    check_part,
    not_empty,
    split_choices,
)
from lens_audio.data.wording import wording
from lens_audio.evals.items import AudioQADataset, AudioQAItem, missing_audio, select
from lens_audio.evals.mmau import FIRST, MMAU, REVISED
from lens_audio.evals.mmau_parquet import read_parquet
from lens_audio.files import check_folder, check_writable


@dataclass
class Listen(Command):
    """Ask about a recording, and see which heads listen to it and when."""

    audio: Annotated[
        str | None,
        typer.Argument(
            help="An audio file in any format that FFmpeg decodes. Default: the bundled recording."
        ),
    ] = None
    question: Question = None
    choices: Choices = None
    model: Model = None
    device: Device = None
    dtype: DtypeOption = None
    out: Page = Path("lens-audio-listen.html")
    table: Annotated[
        Path | None,
        typer.Option(help="Also write a table of the answers: .csv, or .json with all results."),
    ] = None
    start: Start = None
    end: End = None
    max_seconds: MaxSeconds = None
    top: Top = 8
    debug: Debug = False

    def __post_init__(self) -> None:
        check_part(self.start, self.end)

    def check(self) -> None:
        if self.table is None:
            check_writable(self.out)
        else:
            check_outputs(self.out, self.table)
        check_recording(self.audio)
        check_kept([self.audio], self.out, *([self.table] if self.table else []))
        checkpoint_files(self.model)


class By(StrEnum):
    """What the cells of a sweep are, in each layer."""

    window = "window"
    head = "head"
    position = "position"
    group = "group"


class Direction(StrEnum):
    """denoise: clean activations into the corrupted run; noise: the reverse."""

    denoise = "denoise"
    noise = "noise"


class Fit(StrEnum):
    """How recordings of unequal length line up (`lens_audio.data.pair`)."""

    crop = "crop"
    pad = "pad"
    group = "group"


@dataclass
class Patch(Command):
    """Ask one question about two recordings, and find what makes the answers differ."""

    clean: Annotated[
        str | None, typer.Argument(help="An audio file. Default: two bundled recordings.")
    ] = None
    corrupted: Annotated[
        str | None,
        typer.Argument(
            help="Another file, or a change to CLEAN: silence (the default), noise:10 (white noise at "
            "a signal-to-noise ratio of 10 dB) or shuffle (its quarter seconds in another order)."
        ),
    ] = None
    question: Question = None
    choices: Choices = None
    by: Annotated[
        list[By] | None,
        typer.Option(help="What to patch by; can be repeated. Default: window and head."),
    ] = None
    site: Annotated[
        str | None,
        typer.Option(
            help="Where to patch: resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, …, audio_embed "
            "or audio_encoder.resid_pre, …. Default: resid_pre, or z by head."
        ),
    ] = None
    window: Annotated[
        float, typer.Option(callback=above_zero, help="Length of a time window in seconds.")
    ] = 0.25
    direction: Annotated[
        Direction,
        typer.Option(
            help="denoise patches clean activations into the corrupted run, noise does the reverse."
        ),
    ] = Direction.denoise
    answer: Annotated[
        str | None,
        typer.Option(
            callback=not_empty,
            help="The metric is logit(--answer) - logit(--instead), of their first tokens. Default: "
            "the model's answer to CLEAN.",
        ),
    ] = None
    instead: Annotated[
        str | None,
        typer.Option(
            callback=not_empty,
            help="The answer to compare with. Default: the model's answer to CORRUPTED.",
        ),
    ] = None
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="For recordings of unequal length: cut the longer one (crop), add silence to the "
            "shorter one (pad), or patch window by window, with means where lengths differ (group)."
        ),
    ] = None
    cut: Annotated[bool, typer.Option("--cut", help="The same as --fit crop.")] = False
    start: Start = None
    end: End = None
    max_seconds: MaxSeconds = None
    model: Model = None
    device: Device = None
    out: Page = Path("lens-audio-patch.html")
    table: Table = Path("lens-audio-patch.csv")
    top: Top = 5
    debug: Debug = False

    def __post_init__(self) -> None:
        check_part(self.start, self.end)
        if not self.cut:
            return
        if self.fit not in (None, Fit.crop):
            raise typer.BadParameter(
                "it means --fit crop; give only one of the two", param_hint="--cut"
            )
        self.fit, self.cut = Fit.crop, False

    def check(self) -> None:
        check_outputs(self.out, self.table)
        check_recording(self.clean)
        check_recording(self.corrupted)
        check_kept((self.clean, self.corrupted), self.out, self.table)
        check_named(split_choices(self.choices), self.answer, self.instead)
        checkpoint_files(self.model)


@dataclass
class Heads(Command):
    """Measure every head's audio mass, and find the audio-specialist heads."""

    k: Annotated[int, typer.Option(min=1, help="Number of specialist heads.")] = 8
    items: Annotated[
        int, typer.Option("-n", "--items", min=8, help="Number of items for each kind of caption.")
    ] = 150
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="Correlate over all captions together, as in the paper. Default: within each kind of "
            "caption, so that a head that only tells captions apart is not a specialist.",
        ),
    ] = False
    seed: Seed = 1001
    model: Model = None
    device: Device = None
    batch_size: BatchSize = 16
    out: Page = Path("lens-audio-heads.html")
    table: Table = Path("lens-audio-heads.csv")
    debug: Debug = False

    def check(self) -> None:
        check_outputs(self.out, self.table)
        checkpoint_files(self.model)


class SpecialistsFrom(StrEnum):
    """Which calibration items the specialists are found on, by what their caption does."""

    all = "all"
    captionless = "captionless"
    truthful = "truthful"
    conflict = "conflict"


QUICK, FULL = (40, 40, 5), (300, 300, 10)  # calibration and test items a caption, draws


@dataclass
class Steer(Command):
    """Make the model listen more: calibrate on some items, report on others, with all controls."""

    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Only choose k and beta; --save keeps the result.")
    ] = False
    report: Annotated[
        bool,
        typer.Option("--report", help="Calibrate and report on other items. This is the default."),
    ] = False
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Use 300 items per caption and 10 draws: steadier numbers, but far slower.",
        ),
    ] = False
    n_calibration: Annotated[
        int | None,
        typer.Option(
            min=8, help="Number of calibration items for each kind of caption. Default: 40."
        ),
    ] = None
    n_test: Annotated[
        int | None,
        typer.Option(min=8, help="Number of test items for each kind of caption. Default: 40."),
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the calibration items; test items use the next.")
    ] = 3001
    adaptive: AdaptiveOption = Adaptive.constant
    specialists_from: Annotated[
        SpecialistsFrom,
        typer.Option(
            help="The calibration items on which specialists are found. On conflict items, a right "
            "answer means that the audio decided and not the caption."
        ),
    ] = SpecialistsFrom.conflict
    draws: Annotated[
        int | None,
        typer.Option(min=2, help="Number of sets of random heads to compare with. Default: 5."),
    ] = None
    model: Model = None
    device: Device = None
    batch_size: BatchSize = 16
    out: Page = Path("lens-audio-steer.html")
    table: Table = Path("lens-audio-steer.csv")
    save: Annotated[
        Path | None, typer.Option(help="Write the calibrated steering to this .safetensors file.")
    ] = None
    debug: Debug = False

    def __post_init__(self) -> None:
        if self.calibrate and self.report:
            raise typer.BadParameter("--report calibrates too; give one of the two")
        self.n_calibration, self.n_test, self.draws = self.sizes

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Calibration items and test items a caption, and sets of random heads."""
        n_calibration, n_test, draws = FULL if self.full else QUICK
        return self.n_calibration or n_calibration, self.n_test or n_test, self.draws or draws

    def check(self) -> None:
        check_outputs(self.out, self.table, self.save)
        checkpoint_files(self.model)


class Benchmark(StrEnum):
    """Which questions."""

    mmau = "mmau"
    testbed = "testbed"


class AnswerBy(StrEnum):
    """How a choice is made."""

    generation = "generation"
    log_probability = "log-probability"


@dataclass
class Mmau(Command):
    """Answer a benchmark with the model as it is, steered, and under every control; resumable."""

    data: Annotated[
        Path | None,
        typer.Argument(
            help="MMAU's JSON file (or JSON lines), or a parquet file or a folder of them."
        ),
    ] = None
    audio: Annotated[
        Path | None,
        typer.Option(help="The folder of recordings. Default: the folder of the JSON file."),
    ] = None
    dataset: Annotated[
        Benchmark,
        typer.Option(help="testbed: questions about synthesised sounds, which need no data."),
    ] = Benchmark.mmau
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
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first items, this many.")
    ] = None
    task: Annotated[str | None, typer.Option(help="Use only sound, music or speech items.")] = None
    difficulty: Annotated[str | None, typer.Option(help="Use only easy, medium or hard items.")] = (
        None
    )
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out items whose recording is missing.")
    ] = False
    prompt: Annotated[
        str | None,
        typer.Option(
            help="r1-aqa, plain, brief, or a text file with {question} and {choices}. Default: "
            "r1-aqa; plain for the testbed."
        ),
    ] = None
    answer_by: Annotated[
        AnswerBy,
        typer.Option(help="Generate text and extract the answer, or take the likeliest option."),
    ] = AnswerBy.generation
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens in a generated answer.")
    ] = 32
    runs: Annotated[
        str, typer.Option(help="The runs, separated by commas; base must be among them.")
    ] = "base,steered,random,fixed,silenced"
    calibration_share: Annotated[
        float, typer.Option(help="Share of the items on which heads and beta are chosen.")
    ] = 0.3
    seed: Seed = 0
    ks: Annotated[str, typer.Option(help="Numbers of specialist heads to try.")] = "2,4,8,12"
    betas: Annotated[str, typer.Option(help="Strengths to try; 0 is always tried.")] = "0.5,1,2,4,8"
    adaptive: AdaptiveOption = Adaptive.constant
    draws: Annotated[
        int, typer.Option(min=1, help="Number of sets of random heads, each a run.")
    ] = 3
    steering: Annotated[
        Path | None,
        typer.Option(
            help="Steering that was calibrated before (.safetensors); then no items are set apart."
        ),
    ] = None
    max_seconds: Annotated[
        float | None,
        typer.Option(
            callback=above_zero,
            help="Keep only this many seconds of a recording. Default: all that the model can hear.",
        ),
    ] = None
    model: Model = None
    device: Device = None
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread the model over all GPUs of this process.")
    ] = None
    batch_size: BatchSize = 8
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode recordings ahead of the model.")
    ] = 2
    out: Annotated[
        Path, typer.Option(help="The folder for results. An unfinished run there is continued.")
    ] = Path("lens-audio-mmau")
    debug: Debug = False

    def check(self) -> None:
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
        if self.dataset == Benchmark.testbed:
            return None
        if self.data is None:
            raise ValueError(
                "give MMAU's JSON file or its parquet files, or --dataset testbed for synthesised sounds"
            )
        if self.data.is_dir() or self.data.suffix == ".parquet":
            return read_parquet(self.data, self.benchmark_version or REVISED)
        return MMAU.read_json(self.data, self.audio, self.benchmark_version or FIRST)

    def selected(self, dataset: AudioQADataset) -> list[AudioQAItem]:
        """The items asked for.

        Raises:
            ValueError: if no items are left.
        """
        items = select(dataset.items, task=self.task, difficulty=self.difficulty)
        if self.skip_missing:
            missing = {item.id for item in missing_audio(items)}
            items = [item for item in items if item.id not in missing]
        items = items[: self.limit]
        if not items:
            raise ValueError("none of the recordings was found")
        return items


@dataclass
class Verify(Command):
    """Compare a checkpoint with transformers: every block, the logits, greedy tokens.

    Exit status: 0 if they agree; 3 if they differ; 4 if transformers cannot run this model, so that
    only finite numbers and tokens were checked; 1 if one of the two cannot load it.
    """

    model: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder or a hub id. Default: the embedded checkpoint."),
    ] = None
    device: Device = None
    dtype: DtypeOption = None
    against: Annotated[
        str | None,
        typer.Option(
            help="Another checkpoint of the same sizes, for transformers to load instead."
        ),
    ] = None
    tokens: Annotated[int, typer.Option(min=1, help="Number of greedy tokens.")] = 32
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One prompt instead of four, in a tenth of the time."),
    ] = False
    output: Annotated[Path, typer.Option(help="The JSON file to write, to attach to an issue.")] = (
        Path("lens-audio-verify.json")
    )
    debug: Debug = False

    def check(self) -> None:
        check_writable(self.output)
        checkpoint_files(self.model)
        checkpoint_files(self.against)


COMMANDS: tuple[type[Command], ...] = (Listen, Patch, Heads, Steer, Mmau, Verify)
