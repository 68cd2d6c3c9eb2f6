"""The options of `lens-audio patch`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
    Debug,
    Device,
    End,
    MaxSeconds,
    Model,
    Page,
    Question,
    Start,
    Table,
    Top,
    above_zero,
    check_part,
    not_empty,
    split_choices,
)


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
        """Refuse files that cannot be written, recordings and answers that are none, and no checkpoint."""
        check_outputs(self.out, self.table)
        check_recording(self.clean)
        check_recording(self.corrupted)
        check_kept((self.clean, self.corrupted), self.out, self.table)
        check_named(split_choices(self.choices), self.answer, self.instead)
        checkpoint_files(self.model)
