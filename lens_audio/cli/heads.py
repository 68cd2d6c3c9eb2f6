"""`lens-audio heads`: which heads listen, and whose listening predicts right answers."""

from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.errors import clear_errors


def heads(
    k: Annotated[int, typer.Option(min=1, help="How many specialist heads.")] = 8,
    n: Annotated[
        int, typer.Option("-n", "--items", min=8, help="Items for each kind of caption.")
    ] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of the held-out items and the split.")] = 1001,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint folder or a hub id. Default: the embedded checkpoint."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, … Default: the GPU if there is one.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one forward.")] = 16,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens-audio-heads.html"),
    table: Annotated[
        Path, typer.Option(help="The table to write: .csv, or .json with all results.")
    ] = Path("lens-audio-heads.csv"),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure every head's attention on the audio, and find the audio-specialist heads."""
    with clear_errors(debug):
        from lens_audio.cli.run_heads import run

        run(k, n, seed, model, device, batch_size, out, table)
