"""`lens-audio heads`: which heads listen, and whose listening predicts right answers."""

from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import check_outputs, checkpoint_files
from lens_audio.cli.errors import clear_errors
from lens_audio.cli.options import BatchSize, Debug, Device, Model


def heads(
    k: Annotated[int, typer.Option(min=1, help="How many specialist heads.")] = 8,
    n: Annotated[
        int, typer.Option("-n", "--items", min=8, help="Items for each kind of caption.")
    ] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of the held-out items and the split.")] = 1001,
    model: Model = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens-audio-heads.html"),
    table: Annotated[
        Path, typer.Option(help="The table to write: .csv, or .json with all results.")
    ] = Path("lens-audio-heads.csv"),
    debug: Debug = False,
) -> None:
    """Measure every head's attention on the audio, and find the audio-specialist heads."""
    with clear_errors(debug):
        check_outputs(out, table)
        checkpoint_files(model)
        from lens_audio.cli.run_heads import run

        run(k, n, seed, model, device, batch_size, out, table)
