"""`lens-audio verify`: does a checkpoint compute here what it computes in transformers?"""

from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import checkpoint_files
from lens_audio.cli.errors import clear_errors
from lens_audio.cli.options import Debug, Device, DtypeOption
from lens_audio.files import check_writable


def verify(
    model: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder or a hub id. Default: the embedded checkpoint."),
    ] = None,
    device: Device = None,
    dtype: DtypeOption = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Another checkpoint of the same sizes, for transformers to load instead."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="How many greedy tokens.")] = 32,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only one prompt instead of four: a tenth of the time.")
    ] = False,
    output: Annotated[
        Path, typer.Option(help="The JSON file to write, to attach to an issue.")
    ] = Path("lens-audio-verify.json"),
    debug: Debug = False,
) -> None:
    """Compare a checkpoint with transformers: every block, the logits, greedy tokens.

    Exit status: 0 they agree, 3 they differ, 4 transformers cannot run this model, so that only
    finite numbers and tokens were checked; 1 one of both cannot load it.
    """
    with clear_errors(debug):
        check_writable(output)
        checkpoint_files(model)
        checkpoint_files(against)
        from lens_audio.cli.run_verify import run

        status = run(
            model, device, None if dtype is None else dtype.value, against, tokens, quick, output
        )
    raise typer.Exit(status)
