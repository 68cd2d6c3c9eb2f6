"""The options of commands that ask one question about two recordings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_audio.cli.checks import (
    check_kept,
    check_named,
    check_outputs,
    check_recording,
    checkpoint_files,
)
from lens_audio.cli.options import (
    Choices,
    Command,
    Device,
    End,
    MaxSeconds,
    Model,
    Question,
    Start,
    check_part,
    not_empty,
    split_choices,
)


@dataclass
class AboutTwo(Command):
    """A question about two recordings, and which two answers are compared."""

    clean: Annotated[
        str | None, typer.Argument(help="An audio file. Default: bundled recordings.")
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
        Literal["crop", "pad", "group"] | None,  # as of `lens_audio.data.pair`
        typer.Option(
            help="For recordings of unequal length: cut the longer one (crop), add silence to the "
            "shorter one (pad), or patch window by window, with means where lengths differ (group)."
        ),
    ] = None
    start: Start = None
    end: End = None
    max_seconds: MaxSeconds = None
    model: Model = None
    device: Device = None

    def __post_init__(self) -> None:
        check_part(self.start, self.end)

    def check_two(self, out: Path, table: Path) -> None:
        """Refuse files that cannot be written, recordings and answers that are none, and no checkpoint.

        Raises:
            OSError, ValueError: saying what is wrong.
        """
        check_outputs(out, table)
        check_recording(self.clean)
        check_recording(self.corrupted)
        check_kept((self.clean, self.corrupted), out, table)
        check_named(split_choices(self.choices), self.answer, self.instead)
        checkpoint_files(self.model)
