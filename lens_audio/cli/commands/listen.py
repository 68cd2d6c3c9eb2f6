"""The options of `lens-audio listen`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import (
    check_kept,
    check_outputs,
    check_recording,
    checkpoint_files,
)
from lens_audio.cli.options import (
    Choices,
    Command,
    Debug,
    Device,
    Dtype,
    End,
    MaxSeconds,
    Model,
    Page,
    Question,
    Start,
    Top,
    check_part,
)
from lens_audio.files import check_writable


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
    dtype: Dtype = None
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
        """Refuse files that cannot be written, what is no recording, and what is no checkpoint."""
        if self.table is None:
            check_writable(self.out)
        else:
            check_outputs(self.out, self.table)
        check_recording(self.audio)
        check_kept([self.audio], self.out, *([self.table] if self.table else []))
        checkpoint_files(self.model)
