"""`lens-audio heads`: which heads listen, and whose listening predicts right answers."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import testbed
from lens_audio.analysis.listening import LEVEL, Specialists, find_specialists
from lens_audio.cli.checkpoint import CheckpointFiles, load
from lens_audio.cli.checks import shown_name
from lens_audio.cli.commands.heads import Heads
from lens_audio.data.items import AudioQAItem
from lens_audio.plots.pages.heads import CONDITIONS, HEADER, condition_rows, heads_page, rows
from lens_audio.plots.report import write_page
from lens_audio.sites import head_name
from lens_audio.tables import write_table
from lens_audio.testbed.items import Caption

CAPTIONS: tuple[Caption, ...] = ("none", "true", "false")


def run(request: Heads) -> None:
    """Load, measure, print, write the table and the page."""
    checkpoint = CheckpointFiles.read(request.model, request.device)
    checkpoint.check_heads(request.k)
    items = held_out(request.items, request.seed)
    checkpoint.check_items(items)
    model = load(request.model, request.device)
    found = find_specialists(
        model, items, request.k, seed=request.seed, batch_size=request.batch_size,
        stratified=not request.mixed,
    )  # fmt: skip
    if request.table.suffix == ".json":
        found.to_json(request.table)
    else:
        write_table(found.to_dataframe(), request.table)
    command = request.shown(with_defaults=True)
    write_page(request.out, heads_page(found, shown_name(request.model), command))
    show(found, Console(highlight=False))
    files = f"\nTable: {escape(str(request.table))}\nPage: {escape(str(request.out))}"
    Console().print(files, soft_wrap=True)


def held_out(
    n: int, seed: int, make: Callable[..., Sequence[AudioQAItem]] = testbed.make_items
) -> list[AudioQAItem]:
    """n items of the testbed without, with a true, and with a false caption: other recordings each.

    The seeds differ, so that no recording is on both sides of a split.

    Args:
        make: `make_items`, or `make_scene_items`.
    """
    seeds = {caption: 10 * seed + number for number, caption in enumerate(CAPTIONS)}
    return [item for caption, own in seeds.items() for item in make(n, own, caption=caption)]


def show(found: Specialists, console: Console) -> None:
    """Print the specialists and how they do on the test items."""
    if found.undefined:
        console.print(f"[bold]No specialist heads:[/] {escape(found.undefined)}")
        return
    how = "all caption conditions together" if found.stratified is False else "within captions"
    table = Table(*HEADER, title=f"audio-specialist heads ({how})")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    named = " ".join(head_name(*head) for head in found.calibration.significant()) or "none"
    console.print(f"Significant after correction for all heads (p below {LEVEL:g}): {named}")
    parts = Table(*CONDITIONS, title="each caption condition on its own; intervals over items")
    for cells in condition_rows(found):
        parts.add_row(*map(escape, cells))
    console.print(parts)
