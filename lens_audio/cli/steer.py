"""`lens-audio steer`: calibrate audio-silence steering, and report on it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import check_outputs, checkpoint_files
from lens_audio.cli.errors import clear_errors
from lens_audio.cli.options import Adaptive, BatchSize, Debug, Device, Model


class SpecialistsFrom(StrEnum):
    """Which calibration items the specialists are found on, by what their caption does."""

    all = "all"
    captionless = "captionless"
    truthful = "truthful"
    conflict = "conflict"


def steer(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Only choose k and beta, and save the steering.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Calibrate and report on other items. This is the default."),
    ] = False,
    n_calibration: Annotated[
        int, typer.Option(min=8, help="Calibration items for each kind of caption.")
    ] = 300,
    n_test: Annotated[int, typer.Option(min=8, help="Test items for each kind of caption.")] = 300,
    seed: Annotated[
        int, typer.Option(min=0, help="Calibration items have this seed, test items the next.")
    ] = 3001,
    adaptive: Annotated[Adaptive, typer.Option(help="What scales beta.")] = Adaptive.constant,
    specialists_from: Annotated[
        SpecialistsFrom,
        typer.Option(
            help="Calibration items that the specialists are found on: conflict, where a right "
            "answer means that the audio and not the caption decided; or all."
        ),
    ] = SpecialistsFrom.conflict,
    draws: Annotated[int, typer.Option(min=2, help="Sets of random heads to compare with.")] = 10,
    model: Model = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens-audio-steer.html"),
    table: Annotated[
        Path, typer.Option(help="The table to write: .csv, or .json with all results.")
    ] = Path("lens-audio-steer.csv"),
    save: Annotated[
        Path | None, typer.Option(help="Write the calibrated steering to this .safetensors file.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make the model listen more: calibrate on some items, report on others, with all controls."""
    if calibrate and report:
        raise typer.BadParameter("--report calibrates too; give one of the two")
    with clear_errors(debug):
        check_outputs(out, table, save)
        checkpoint_files(model)
        from lens_audio.cli.run_steer import Request, run

        run(
            Request(
                reports=not calibrate,
                n_calibration=n_calibration,
                n_test=n_test,
                seed=seed,
                adaptive=adaptive.value,
                specialists_from=(
                    None if specialists_from is SpecialistsFrom.all else specialists_from.value
                ),
                draws=draws,
                model=model,
                device=device,
                batch_size=batch_size,
                out=out,
                table=table,
                save=save,
            )
        )
