"""What commands have in common: options of several, each written once, and how a command is shown."""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.models import ArgumentInfo

from lens_audio.cli.checks import shown_name
from lens_audio.testbed import KNOWN


def not_empty(text: str | None) -> str | None:
    """Refuse an empty text, as wrong usage."""
    if text is not None and not text.strip():
        raise typer.BadParameter("it is empty")
    return text


def above_zero(seconds: float | None) -> float | None:
    """Refuse a length of time that is none, as wrong usage."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter("give a length in seconds above 0")
    return seconds


def from_zero(seconds: float | None) -> float | None:
    """Refuse a moment before the beginning, as wrong usage."""
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise typer.BadParameter("give a time in seconds, 0 or later")
    return seconds


def check_part(start: float | None, end: float | None) -> None:
    """Refuse a part of a recording that ends before it begins, as wrong usage."""
    if end is not None and end <= (start or 0.0):
        raise typer.BadParameter(
            f"it is {end:g} s, but the part begins at {start or 0.0:g} s; give a later time",
            param_hint="--end",
        )


def split_choices(text: str | None) -> list[str] | None:
    """The choices of `--choices a,b,c`; fewer than two, an empty or a repeated one is wrong usage."""
    if text is None:
        return None
    choices = [choice.strip() for choice in text.split(",")]
    if len(choices) < 2 or not all(choices):
        raise typer.BadParameter("give at least two answers separated by commas, as in dog,siren")
    if len(set(choices)) < len(choices):
        raise typer.BadParameter("the same answer is given twice")
    return choices


def only_commas(text: str | None) -> str | None:
    """`--choices` with commas between them and no spaces around these."""
    choices = split_choices(text)
    return None if choices is None else ",".join(choices)


def several_of(choices: Sequence[str], what: str) -> Any:
    """An option that may be given several times: typer takes no `Literal` in a list.

    Args:
        what: its help.
    """

    def check(given: list[str] | None) -> list[str] | None:
        for one in given or []:
            if one not in choices:
                raise typer.BadParameter(f"{one!r} is not one of {', '.join(map(repr, choices))}.")
        return given

    return typer.Option(metavar=f"<list[{'|'.join(choices)}]>", callback=check, help=what)


Question = Annotated[str | None, typer.Option(callback=not_empty, help="What to ask.")]
Choices = Annotated[
    str | None,
    typer.Option(
        callback=only_commas,
        help="Answers to choose from, separated by commas: dog,siren,bell. They are appended to a "
        "question that does not name them all.",
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(callback=above_zero, help="Keep only this many seconds of longer recordings."),
]
Start = Annotated[
    float | None,
    typer.Option(callback=from_zero, help="Where the part to ask about begins, in seconds."),
]
End = Annotated[float | None, typer.Option(callback=above_zero, help="Where it ends, in seconds.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint folder, a hub id, or an embedded checkpoint: listen (the default), "
        "emergent, planted, graded."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, … Default: the GPU if there is one.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "auto"] | None,
    typer.Option(help="auto: what config.json names. Default: as the weights are stored."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts per forward pass.")]
AnswerBy = Annotated[
    Literal["generation", "log-probability"],  # `evals.asking.ANSWER_BY`
    typer.Option(help="Generate text and extract the answer, or take the likeliest option."),
]
AudioFolder = Annotated[
    Path | None,
    typer.Option(help="The folder of recordings. Default: the folder of the questions' file."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first items, this many.")]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out items whose recording is missing.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Most tokens in a generated answer.")]
HeardSeconds = Annotated[
    float | None,
    typer.Option(
        callback=above_zero,
        help="Keep only this many seconds of a recording. Default: all that the model can hear.",
    ),
]
DeviceMap = Annotated[
    str | None, typer.Option(help="auto: spread the model over all GPUs of this process.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that decode recordings ahead of the model.")
]
ResultsFolder = Annotated[
    Path, typer.Option(help="The folder for results. An unfinished run there is continued.")
]
Adaptive = Annotated[
    Literal["constant", "listening", "confidence"],  # `steering.audio_silence.settings.ADAPTIVE`
    typer.Option(help="What scales beta."),
]
Checkpoints = Annotated[
    list[str] | None,
    several_of(KNOWN, "An embedded checkpoint; may be given several times. Default: all three."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Top = Annotated[int, typer.Option(min=1, help="How many of the strongest to show.")]
Page = Annotated[Path, typer.Option(help="The page to write.")]
Table = Annotated[Path, typer.Option(help="The table to write: .csv, or .json with all results.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# Options that a result does not depend on: a command that is shown leaves them out.
NOT_SHOWN = ("device", "out", "table", "save", "workers", "debug")


@dataclass
class Command:
    """What a command is asked."""

    @classmethod
    def command_name(cls) -> str:
        """As it is typed: the class's name with hyphens between its words."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            OSError, ValueError: saying what is wrong.
        """
        raise NotImplementedError

    def shown(self, with_defaults: bool = False) -> str:
        """The command that does this again, with names of files and folders but no paths."""
        words = ["lens-audio", self.command_name()]
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.name in NOT_SHOWN or value is None or value is False:
                continue
            if value == field.default and not with_defaults:
                continue
            is_argument = isinstance(hints[field.name].__metadata__[0], ArgumentInfo)
            for one in value if isinstance(value, list) else [value]:
                if field.name == "model":
                    one = shown_name(one)
                elif is_argument or isinstance(one, Path):
                    one = Path(one).name
                words += [] if is_argument else [f"--{field.name.replace('_', '-')}"]
                words += [] if one is True else [str(one)]
        return shlex.join(words)
