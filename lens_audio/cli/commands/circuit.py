"""The options of `lens-audio circuit`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_audio.cli.commands.about_two import AboutTwo
from lens_audio.cli.options import Debug, Page, Table, Top

PAIRS = 16  # of the testbed's recordings, by default
OF_RECORDINGS = (
    "corrupted", "question", "choices", "answer", "instead", "fit", "start", "end", "max_seconds",
)  # fmt: skip


@dataclass
class CircuitCommand(AboutTwo):
    """Ask one question about two recordings, and find the edges in the model that tell them apart."""

    method: Annotated[
        Literal[
            "eap", "eap-ig-inputs", "eap-ig-activations", "exact"
        ],  # `analysis.circuits.METHODS`
        typer.Option(
            help="How edges are scored: by gradients (eap), by integrated gradients along the "
            "embeddings or the activations, or each by a run of its own (exact: slow)."
        ),
    ] = "eap"
    edges: Annotated[
        int,
        typer.Option(min=1, max=500, help="Edges of the circuit, at most: the page shows these."),
    ] = 40
    pairs: Annotated[
        int | None,
        typer.Option(
            min=4,
            help="Without CLEAN: pairs of synthetic recordings. Edges are found on the first half "
            f"of them and judged on the others. Default: {PAIRS}.",
        ),
    ] = None
    out: Page = Path("lens-audio-circuit.html")
    table: Table = Path("lens-audio-circuit.csv")
    top: Top = 10
    debug: Debug = False

    @classmethod
    def command_name(cls) -> str:
        """Not the class's name: `Circuit` is that of a set of heads."""
        return "circuit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean is not None and self.pairs is not None:
            raise typer.BadParameter(
                "your recordings are one pair; leave it out", param_hint="--pairs"
            )
        given = [name for name in OF_RECORDINGS if getattr(self, name) is not None]
        if self.clean is None and given:
            raise typer.BadParameter(
                "it goes with recordings of your own: give CLEAN",
                param_hint=f"--{given[0].replace('_', '-')}",
            )

    def check(self) -> None:
        """Refuse files that cannot be written, recordings and answers that are none, and no checkpoint."""
        self.check_two(self.out, self.table)
