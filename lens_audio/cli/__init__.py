"""The command `lens-audio`.

What a command does is imported when it runs, after everything that can be refused without torch.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer

from lens_audio.cli.commands import COMMANDS
from lens_audio.cli.options import Command

app = typer.Typer(
    name="lens-audio",
    help="Is this audio-language model listening, and where inside?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def clear_errors(debug: bool) -> Iterator[None]:
    """Turn an exception into one line on stderr and exit status 1; `debug` lets it through."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        message = message.replace("max_seconds=", "--max-seconds ")
        expected = isinstance(error, (OSError, ValueError, TypeError))
        hint = "" if expected else f" ({type(error).__name__}; --debug shows where)"
        typer.echo(f"error: {message}{hint}", err=True)
        raise typer.Exit(1) from None


def register(command: type[Command]) -> None:
    """Make a command of the class: its fields are the options, its docstring is the help."""
    name = command.command_name()

    @app.command(name)
    @functools.wraps(command, updated=())
    def run(**options: Any) -> None:
        request = command(**options)
        with clear_errors(options["debug"]):
            request.check()
            status = import_module(f"lens_audio.cli.{name.replace('-', '_')}").run(request)
        raise typer.Exit(status or 0)


def show_version(wanted: bool) -> bool:
    """Print the version and end."""
    if wanted:
        typer.echo(f"lens-audio {version('lens_audio')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Is this audio-language model listening, and where inside?"""


for each in COMMANDS:
    register(each)
