"""The command `lens-audio`. What each command does is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import (
    check_kept,
    check_recording,
    check_seconds,
    check_text,
    checkpoint_files,
)
from lens_audio.cli.errors import clear_errors
from lens_audio.cli.heads import heads
from lens_audio.cli.mmau import mmau
from lens_audio.cli.options import Choices, Debug, Device, DtypeOption, Model, split_choices
from lens_audio.cli.patch import patch
from lens_audio.cli.steer import steer
from lens_audio.cli.verify import verify
from lens_audio.files import check_writable

app = typer.Typer(
    name="lens-audio",
    help="Is this audio-language model listening, and where inside?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def listen(
    audio: Annotated[
        str | None,
        typer.Argument(
            help="An audio file (whatever FFmpeg decodes). Default: the bundled recording."
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about the recording.")] = None,
    choices: Choices = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens-audio-listen.html"),
    max_seconds: Annotated[
        float | None, typer.Option(help="Keep only the first seconds of a longer recording.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the strongest heads to show.")] = 8,
    debug: Debug = False,
) -> None:
    """Ask about a recording, and see which heads listen to it and when."""
    options = split_choices(choices)
    check_text(question, "--question")
    check_seconds(max_seconds, "--max-seconds")
    with clear_errors(debug):
        check_writable(out)
        check_recording(audio)
        check_kept([audio], out)
        checkpoint_files(model)
        from lens_audio.cli.listen import Request, run

        run(
            Request(
                audio=audio,
                question=question,
                choices=options,
                model=model,
                device=device,
                dtype=None if dtype is None else dtype.value,
                out=out,
                max_seconds=max_seconds,
                top=top,
            )
        )


app.command()(patch)
app.command()(heads)
app.command()(steer)
app.command()(mmau)
app.command()(verify)
