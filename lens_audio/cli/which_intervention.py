"""`lens-audio which-intervention`: every intervention on the checkpoints whose readers are known."""

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio.cli.checkpoint import load
from lens_audio.cli.commands.which_intervention import WhichIntervention
from lens_audio.evals.interventions import InterventionComparison, compare_interventions
from lens_audio.plots.pages.which_intervention import effect_cells, which_intervention_page
from lens_audio.plots.report import write_page
from lens_audio.tables import write_table
from lens_audio.testbed import checkpoint_dir


def run(request: WhichIntervention) -> None:
    """Compare, print, write the tables and the page."""
    console = Console(highlight=False)
    found = []
    for name in request.checkpoints:
        # Not by its name, which may be that of a folder here.
        model = load(str(checkpoint_dir(name)), request.device)
        one = compare_interventions(
            model, name, request.out / name, n_calibration=request.clips, n_test=request.clips,
            draws=request.draws, seed=request.seed,
        )  # fmt: skip
        show(one, console)
        found.append(one)
    for name in ("table", "tuning", "adaptive", "kinds"):
        whole = pd.concat([getattr(one, name).assign(checkpoint=one.checkpoint) for one in found])
        file = "interventions" if name == "table" else name
        write_table(whole, request.out / f"{file}.csv")
    command = request.shown(with_defaults=True)
    page = write_page(request.out / "report.html", which_intervention_page(found, command))
    console.print(f"Page: {escape(str(page))}", soft_wrap=True)


def show(one: InterventionComparison, console: Console) -> None:
    """Print what was found on a checkpoint."""
    for sentence in one.findings:
        console.print(escape(sentence))
    table = Table(
        "run", "strength", *one.conditions, "time", title=f"{one.checkpoint}: points gained"
    )
    for cells in effect_cells(one):
        table.add_row(*map(escape, cells))
    console.print(table)
