"""The options of `lens-audio steer`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_audio.cli.checks import check_outputs, checkpoint_files
from lens_audio.cli.options import (
    Adaptive,
    BatchSize,
    Command,
    Debug,
    Device,
    Model,
    Page,
    Table,
)
from lens_audio.testbed import is_embedded

# By what an item's caption does.
SpecialistsFrom = Literal["all", "captionless", "truthful", "conflict"]
QUICK, FULL = (40, 40, 5), (300, 300, 10)  # calibration and test items a caption, draws


@dataclass
class Steer(Command):
    """Make the model listen more: calibrate on some items, report on others, with all controls."""

    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Only choose k and beta; --save keeps the result.")
    ] = False
    report: Annotated[
        bool,
        typer.Option("--report", help="Calibrate and report on other items. This is the default."),
    ] = False
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Use 300 items per caption and 10 draws: steadier numbers, but far slower.",
        ),
    ] = False
    n_calibration: Annotated[
        int | None,
        typer.Option(
            min=8, help="Number of calibration items for each kind of caption. Default: 40."
        ),
    ] = None
    n_test: Annotated[
        int | None,
        typer.Option(min=8, help="Number of test items for each kind of caption. Default: 40."),
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the calibration items; test items use the next.")
    ] = 3001
    items: Annotated[
        Literal["testbed", "scenes"] | None,
        typer.Option(
            help="The questions: testbed (make_items) or scenes (make_scene_items). Default: those "
            "that the checkpoint was trained on, scenes for emergent, planted and graded."
        ),
    ] = None
    adaptive: Adaptive = "constant"
    specialists_from: Annotated[
        SpecialistsFrom,
        typer.Option(
            help="The calibration items on which specialists are found. On conflict items, a right "
            "answer means that the audio decided and not the caption."
        ),
    ] = "conflict"
    floor: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.99,
            help="Rank only heads of this mean audio mass or more; 0 ranks all, as in the paper. "
            "What the other way finds is shown beside it.",
        ),
    ] = 0.0
    draws: Annotated[
        int | None,
        typer.Option(
            min=2, help="Number of sets of random heads of each kind to compare with. Default: 5."
        ),
    ] = None
    model: Model = None
    device: Device = None
    batch_size: BatchSize = 16
    out: Page = Path("lens-audio-steer.html")
    table: Table = Path("lens-audio-steer.csv")
    save: Annotated[
        Path | None, typer.Option(help="Write the calibrated steering to this .safetensors file.")
    ] = None
    debug: Debug = False

    def __post_init__(self) -> None:
        if self.calibrate and self.report:
            raise typer.BadParameter("--report calibrates too; give one of the two")
        if self.items is None:
            on_scenes = is_embedded(self.model) and self.model != "listen"
            self.items = "scenes" if on_scenes else "testbed"
        self.n_calibration, self.n_test, self.draws = self.sizes

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Calibration items and test items a caption, and sets of random heads."""
        n_calibration, n_test, draws = FULL if self.full else QUICK
        return self.n_calibration or n_calibration, self.n_test or n_test, self.draws or draws

    def check(self) -> None:
        """Refuse files that cannot be written, and what is no checkpoint."""
        check_outputs(self.out, self.table, self.save)
        checkpoint_files(self.model)
