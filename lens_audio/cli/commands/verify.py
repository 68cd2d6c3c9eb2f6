"""The options of `lens-audio verify`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import (
    checkpoint_files,
)
from lens_audio.cli.options import (
    Command,
    Debug,
    Device,
    Dtype,
)
from lens_audio.files import check_writable


@dataclass
class Verify(Command):
    """Compare a checkpoint with transformers: every block, the logits, greedy tokens.

    Exit status: 0 if they agree; 3 if they differ; 4 if transformers cannot run this model, so that
    only finite numbers and tokens were checked; 1 if one of the two cannot load it.
    """

    model: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder or a hub id. Default: the embedded checkpoint."),
    ] = None
    device: Device = None
    dtype: Dtype = None
    against: Annotated[
        str | None,
        typer.Option(
            help="Another checkpoint of the same sizes, for transformers to load instead."
        ),
    ] = None
    tokens: Annotated[int, typer.Option(min=1, help="Number of greedy tokens.")] = 32
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One prompt instead of four, in a tenth of the time."),
    ] = False
    output: Annotated[Path, typer.Option(help="The JSON file to write, to attach to an issue.")] = (
        Path("lens-audio-verify.json")
    )
    debug: Debug = False

    def check(self) -> None:
        """Refuse a file that cannot be written, and what is no checkpoint."""
        check_writable(self.output)
        checkpoint_files(self.model)
        checkpoint_files(self.against)
