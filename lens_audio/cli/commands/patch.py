"""The options of `lens-audio patch`, and what it refuses before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from lens_audio.cli.commands.about_two import AboutTwo
from lens_audio.cli.options import Debug, Page, Table, Top, above_zero, several_of

BY = ("window", "head", "position", "group")  # what the cells of a sweep are, in each layer


@dataclass
class Patch(AboutTwo):
    """Ask one question about two recordings, and find what makes the answers differ."""

    by: Annotated[
        list[str] | None,
        several_of(BY, "What to patch by; can be repeated. Default: window and head."),
    ] = None
    site: Annotated[
        str | None,
        typer.Option(
            help="Where to patch: resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, …, audio_embed "
            "or audio_encoder.resid_pre, …. Default: resid_pre, or z by head."
        ),
    ] = None
    window: Annotated[
        float, typer.Option(callback=above_zero, help="Length of a time window in seconds.")
    ] = 0.25
    direction: Annotated[
        Literal["denoise", "noise"],
        typer.Option(
            help="denoise patches clean activations into the corrupted run, noise does the reverse."
        ),
    ] = "denoise"
    cut: Annotated[bool, typer.Option("--cut", help="The same as --fit crop.")] = False
    out: Page = Path("lens-audio-patch.html")
    table: Table = Path("lens-audio-patch.csv")
    top: Top = 5
    debug: Debug = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cut:
            return
        if self.fit not in (None, "crop"):
            raise typer.BadParameter(
                "it means --fit crop; give only one of the two", param_hint="--cut"
            )
        self.fit, self.cut = "crop", False

    def check(self) -> None:
        """Refuse files that cannot be written, recordings and answers that are none, and no checkpoint."""
        self.check_two(self.out, self.table)
