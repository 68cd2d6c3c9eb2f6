"""The command `lens-audio`. What each command does is imported when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.errors import clear_errors
from lens_audio.cli.heads import heads
from lens_audio.cli.patch import patch
from lens_audio.cli.steer import steer

app = typer.Typer(
    name="lens-audio",
    help="Is this audio-language model listening, and where inside?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command()(heads)
app.command()(patch)
app.command()(steer)


class Dtype(StrEnum):
    """What the weights are loaded as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.callback()
def main() -> None:
    """Keeps `listen` a command of its own while it is the only one."""


@app.command()
def listen(
    audio: Annotated[
        str | None,
        typer.Argument(help="A wav, flac, mp3 or ogg file. Default: the bundled recording."),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about the recording.")] = None,
    choices: Annotated[
        str | None,
        typer.Option(
            help="Answers to choose from, with commas between them: dog,siren,bell. A question "
            "that does not name them all gets them appended."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint folder or a hub id. Default: the embedded checkpoint."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, … Default: the GPU if there is one.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Default: as the weights are stored.")] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens-audio-listen.html"),
    max_seconds: Annotated[
        float | None, typer.Option(help="Keep only the first seconds of a longer recording.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the strongest heads to show.")] = 8,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Ask about a recording, and see which heads listen to it and when."""
    options = split_choices(choices)
    if question is not None and not question.strip():
        raise typer.BadParameter("it is empty", param_hint="--question")
    with clear_errors(debug):
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


def split_choices(text: str | None) -> list[str] | None:
    """The choices of `--choices a,b,c`; at least two, none empty, none twice."""
    if text is None:
        return None
    choices = [choice.strip() for choice in text.split(",")]
    if len(choices) < 2 or not all(choices):
        problem = "give at least two answers with commas between them, as in dog,siren"
        raise typer.BadParameter(problem, param_hint="--choices")
    if len(set(choices)) < len(choices):
        raise typer.BadParameter("the same answer is given twice", param_hint="--choices")
    return choices
