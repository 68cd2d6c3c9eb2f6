"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


class Adaptive(StrEnum):
    """What scales the strength of steering; `steering.audio_silence.settings.ADAPTIVE`."""

    constant = "constant"
    listening = "listening"
    confidence = "confidence"


class Dtype(StrEnum):
    """What the weights are loaded as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    auto = "auto"


Choices = Annotated[
    str | None,
    typer.Option(
        help="Answers to choose from, with commas between them: dog,siren,bell. A question "
        "that does not name them all gets them appended."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="A checkpoint folder or a hub id. Default: the embedded checkpoint."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, … Default: the GPU if there is one.")
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(help="auto: as config.json says. Default: as the weights are stored."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts in one forward.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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
