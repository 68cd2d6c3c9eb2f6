"""What goes wrong is said in one line on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


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
