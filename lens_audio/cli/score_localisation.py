"""`lens-audio score-localisation`: which methods find the heads that are known to read the audio."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio.checkpoints.pretrained import resolve_device
from lens_audio.cli.commands.score_localisation import ScoreLocalisation
from lens_audio.evals.localisation import METHODS, Method, ScoreCard, score_checkpoints
from lens_audio.plots.pages.score_localisation import (
    SCORE_HEADER,
    score_cells,
    score_localisation_page,
)
from lens_audio.plots.report import write_page


def run(request: ScoreLocalisation) -> None:
    """Score, print, write the table and the page."""
    methods = methods_of(request.methods)
    resolve_device(request.device)
    card = score_checkpoints(
        request.checkpoints, request.pairs, request.seed, methods, device=request.device
    )
    if request.table.suffix == ".json":
        card.to_json(request.table)
    else:
        card.to_csv(request.table)
    command = request.shown(with_defaults=True)
    write_page(
        request.out, score_localisation_page(card.table, card.truths, card.findings, command)
    )
    show(card, Console(highlight=False))
    files = f"\nTable: {escape(str(request.table))}\nPage: {escape(str(request.out))}"
    Console().print(files, soft_wrap=True)


def methods_of(names: str | None) -> Mapping[str, Method]:
    """The methods of these names, all without any.

    Raises:
        ValueError: for a name that there is not, with those that there are.
    """
    if names is None:
        return METHODS
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in METHODS:
            raise ValueError(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    return {name: METHODS[name] for name in chosen}


def show(card: ScoreCard, console: Console) -> None:
    """Print the findings, and every method's scores on each data set."""
    first, *others = card.findings
    console.print(f"[bold]{escape(first)}[/]")
    for sentence in others:
        console.print(escape(sentence))
    for (checkpoint, condition), rows in card.table.groupby(
        ["checkpoint", "condition"], sort=False
    ):
        title = f"{checkpoint}, {condition}; intervals are over pairs"
        shown = Table("method", *SCORE_HEADER, title=title)
        for row in rows.to_dict("records"):
            shown.add_row(*map(escape, (row["method"], *score_cells(row))))
        console.print(shown)
