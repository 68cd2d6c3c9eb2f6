"""The options of `lens-audio which-intervention`, and what it refuses before torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import checkpoint_files
from lens_audio.cli.options import Checkpoints, Command, Debug, Device, ResultsFolder
from lens_audio.files import check_folder
from lens_audio.testbed import KNOWN, checkpoint_dir


@dataclass
class WhichIntervention(Command):
    """Compare every intervention on checkpoints whose readers are known: gains, costs, controls."""

    checkpoint: Checkpoints = None
    clips: Annotated[
        int,
        typer.Option(
            "-n", "--clips", min=8,
            help="Clips of each kind of question, as many for tuning as for the test.",
        ),
    ] = 60  # fmt: skip
    draws: Annotated[
        int, typer.Option(min=0, help="Random controls of each intervention that has any.")
    ] = 3
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the tuning clips; the test clips have the next.")
    ] = 700
    device: Device = None
    out: ResultsFolder = Path("lens-audio-which-intervention")
    debug: Debug = False

    @property
    def checkpoints(self) -> list[str]:
        """The names of the checkpoints asked for, each once."""
        return list(dict.fromkeys(self.checkpoint or KNOWN))

    def check(self) -> None:
        """Refuse a folder that cannot be written, and checkpoints that are not there."""
        check_folder(self.out)
        for name in self.checkpoints:
            checkpoint_files(str(checkpoint_dir(name)))
