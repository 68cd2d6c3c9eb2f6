"""The options of `lens-audio score-localisation`, and what it refuses before torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import check_outputs, checkpoint_files
from lens_audio.cli.options import Checkpoints, Command, Debug, Device, Page, Table
from lens_audio.testbed import KNOWN, checkpoint_dir


@dataclass
class ScoreLocalisation(Command):
    """Score every method that localises on checkpoints whose readers of the audio are known."""

    checkpoint: Checkpoints = None
    pairs: Annotated[
        int, typer.Option("-n", "--pairs", min=8, help="Number of pairs for each condition.")
    ] = 100
    seed: Annotated[int, typer.Option(min=0, help="Seed of the pairs and the bootstrap.")] = 90
    methods: Annotated[
        str | None,
        typer.Option(help="Methods separated by commas: mean mass,knock-out. Default: all."),
    ] = None
    device: Device = None
    out: Page = Path("lens-audio-score-localisation.html")
    table: Table = Path("lens-audio-score-localisation.csv")
    debug: Debug = False

    @property
    def checkpoints(self) -> list[str]:
        """The names of the checkpoints asked for, each once."""
        return list(dict.fromkeys(self.checkpoint or KNOWN))

    def check(self) -> None:
        """Refuse files that cannot be written, and checkpoints that are not there."""
        check_outputs(self.out, self.table)
        for name in self.checkpoints:
            checkpoint_files(str(checkpoint_dir(name)))
