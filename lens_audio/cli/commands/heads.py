"""The options of `lens-audio heads`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import (
    check_outputs,
    checkpoint_files,
)
from lens_audio.cli.options import (
    BatchSize,
    Command,
    Debug,
    Device,
    Model,
    Page,
    Seed,
    Table,
)


@dataclass
class Heads(Command):
    """Measure every head's audio mass, and find the audio-specialist heads."""

    k: Annotated[int, typer.Option(min=1, help="Number of specialist heads.")] = 8
    items: Annotated[
        int, typer.Option("-n", "--items", min=8, help="Number of items for each kind of caption.")
    ] = 150
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="Correlate over all captions together, as in the paper. Default: within each kind of "
            "caption, so that a head that only tells captions apart is not a specialist.",
        ),
    ] = False
    seed: Seed = 1001
    model: Model = None
    device: Device = None
    batch_size: BatchSize = 16
    out: Page = Path("lens-audio-heads.html")
    table: Table = Path("lens-audio-heads.csv")
    debug: Debug = False

    def check(self) -> None:
        """Refuse files that cannot be written, and what is no checkpoint."""
        check_outputs(self.out, self.table)
        checkpoint_files(self.model)
