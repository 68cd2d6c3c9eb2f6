"""`lens-audio patch`: patch activations between two recordings."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import (
    check_kept,
    check_named,
    check_outputs,
    check_recording,
    check_seconds,
    check_text,
    checkpoint_files,
)
from lens_audio.cli.errors import clear_errors
from lens_audio.cli.options import Choices, Debug, Device, Model, split_choices


class By(StrEnum):
    """What the cells of a sweep are, beside layers."""

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


def patch(
    clean: Annotated[
        str | None,
        typer.Argument(help="An audio file. Default: two bundled recordings."),
    ] = None,
    corrupted: Annotated[
        str | None,
        typer.Argument(
            help="Another file, or what becomes of the first: silence (the default), noise:10 "
            "(white noise at a signal-to-noise ratio of 10 dB), shuffle (its quarter seconds in "
            "another order)."
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about both.")] = None,
    choices: Choices = None,
    by: Annotated[
        list[By] | None,
        typer.Option(help="Patch by these; may be repeated. Default: window and head."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Where: resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, …, audio_embed or "
            "audio_encoder.resid_pre, …. Default: resid_pre, and z by head."
        ),
    ] = None,
    window: Annotated[float, typer.Option(help="Length of a time window in seconds.")] = 0.25,
    direction: Annotated[
        Direction,
        typer.Option(help="denoise: clean activations into the corrupted run. noise: the reverse."),
    ] = Direction.denoise,
    answer: Annotated[
        str | None,
        typer.Option(
            help="The metric is logit(this) - logit(--instead), of the first tokens. Default: the model's "
            "answer to CLEAN."
        ),
    ] = None,
    instead: Annotated[
        str | None, typer.Option(help="Default: the model's answer to CORRUPTED.")
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="Of recordings of unequal length, cut the longer one (crop), add silence to the "
            "shorter one (pad), or patch window by window, with means where lengths differ (group)."
        ),
    ] = None,
    cut: Annotated[bool, typer.Option("--cut", help="The same as --fit crop.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option(help="Keep only the first seconds of longer recordings.")
    ] = None,
    model: Model = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens-audio-patch.html"),
    table: Annotated[
        Path, typer.Option(help="The table of all cells to write: .csv or .json.")
    ] = Path("lens-audio-patch.csv"),
    top: Annotated[int, typer.Option(min=1, help="How many of the strongest cells to show.")] = 5,
    debug: Debug = False,
) -> None:
    """Ask one question about two recordings, and find what makes the answers differ."""
    options = split_choices(choices)
    for name, value in (("question", question), ("answer", answer), ("instead", instead)):
        check_text(value, f"--{name}")
    check_seconds(window, "--window")
    check_seconds(max_seconds, "--max-seconds")
    if cut and fit not in (None, Fit.crop):
        raise typer.BadParameter("it is --fit crop; give one of them", param_hint="--cut")
    fit = Fit.crop if cut else fit
    with clear_errors(debug):
        check_outputs(out, table)
        check_recording(clean)
        check_recording(corrupted)
        check_kept((clean, corrupted), out, table)
        check_named(options, answer, instead)
        checkpoint_files(model)
        from lens_audio.cli.run_patch import Request, run

        run(
            Request(
                clean=clean,
                corrupted=corrupted,
                question=question,
                choices=options,
                by=None if by is None else [kind.value for kind in dict.fromkeys(by)],
                site=site,
                window=window,
                direction=direction.value,
                answer=answer,
                instead=instead,
                fit=None if fit is None else fit.value,
                max_seconds=max_seconds,
                model=model,
                device=device,
                out=out,
                table=table,
                top=top,
            )
        )
