"""What `lens-audio heads` does."""

from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import testbed
from lens_audio.analysis.listening import Specialists, find_specialists
from lens_audio.cli.checkpoint import Checkpoint, load
from lens_audio.cli.listen import model_option, shown_name, versions
from lens_audio.data.items import AudioQAItem
from lens_audio.plots import head_map, score_distributions
from lens_audio.plots.report import escape as html
from lens_audio.plots.report import figure_html, page, table_html, write_page
from lens_audio.plots.theme import head_name
from lens_audio.tables import write_table
from lens_audio.testbed.items import Caption

CAPTIONS: tuple[Caption, ...] = ("none", "true", "false")


def run(
    k: int,
    n: int,
    seed: int,
    model_name: str | None,
    device: str | None,
    batch_size: int,
    out: Path,
    table: Path,
) -> None:
    """Load, measure, print, write the table and the page."""
    checkpoint = Checkpoint.read(model_name, device)
    checkpoint.check_heads(k)
    items = held_out(n, seed)
    checkpoint.check_items(items)
    model = load(model_name, device)
    found = find_specialists(model, items, k, seed=seed, batch_size=batch_size)
    if table.suffix == ".json":
        found.to_json(table)
    else:
        write_table(found.to_dataframe(), table)
    command = f"lens-audio heads --k {k} -n {n} --seed {seed}{model_option(model_name)}"
    write_page(out, heads_page(found, shown_name(model_name), command))
    show(found, Console(highlight=False))
    Console().print(f"\nTable: {escape(str(table))}\nPage: {escape(str(out))}", soft_wrap=True)


def held_out(n: int, seed: int) -> list[AudioQAItem]:
    """n items of the testbed without, with a true, and with a false caption: other recordings each.

    The seeds differ, so that no recording is on both sides of a split.
    """
    seeds = {caption: 10 * seed + number for number, caption in enumerate(CAPTIONS)}
    return [
        item
        for caption, own in seeds.items()
        for item in testbed.make_items(n, own, caption=caption)
    ]


HEADER = ("head", "mean audio mass", "r", "p", "p, all heads", "r on test items")


def rows(found: Specialists) -> list[tuple[str, ...]]:
    """The specialists, best first, as text."""
    here, there = found.calibration, found.test
    return [
        (
            head_name(*head),
            f"{float(found.mean_mass[head]):.3f}",
            f"{float(here.r[head]):+.3f}",
            f"{float(here.p_value[head]):.4f}",
            f"{float(here.p_corrected[head]):.4f}",
            f"{float(there.r[head]):+.3f}",
        )
        for head in found.heads
    ]


def show(found: Specialists, console: Console) -> None:
    """Print the specialists and how they do on the test items."""
    if found.undefined:
        console.print(f"[bold]No specialist heads:[/] {escape(found.undefined)}")
        return
    table = Table(*HEADER, title="audio-specialist heads")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    console.print(f"Right answers on calibration items: {found.calibration_accuracy:.3f}")
    console.print(
        f"AUROC of the listening score for a right answer, test items: {escape(str(found.auroc))}"
    )


def heads_page(found: Specialists, model_name: str, command: str) -> str:
    """The page: both maps, the specialists, the scores of the test items."""
    r = found.calibration.r.nan_to_num(0.0).float()
    limit = max(0.05, float(r.abs().max()))
    mass = head_map(found.mean_mass.float(), "share of attention on the audio", limits=(0.0, 1.0),
                    outlined=found.heads)  # fmt: skip
    correlation = head_map(r, "correlation with right answers", signed=True,
                           outlined=found.heads, limits=(-limit, limit))  # fmt: skip
    right, wrong = found.test_scores[found.test_correct], found.test_scores[~found.test_correct]
    groups = score_distributions({"answered right": right, "answered wrong": wrong})
    said = html(found.undefined) if found.undefined else f"AUROC {html(found.auroc)}"
    body = [
        f"<header><h1>Which heads listen?</h1><p>{html(model_name)} · {len(found.calibration_ids)}"
        f" calibration and {len(found.test_ids)} test items</p></header>",
        '<section><h2>Attention on the audio, and what it predicts</h2><p class="note">From the '
        "last position of the prompt. Left: the mean over the calibration items. Right: Pearson "
        "correlation with right answers. Outlined are the specialists: highest correlation.</p>"
        f'<div class="grid"><div>{figure_html(mass, "mass")}</div>'
        f"<div>{figure_html(correlation, 'correlation')}</div></div></section>",
        "<section><h2>The specialists</h2>"
        f"{table_html(HEADER, rows(found))}"
        '<p class="note">p by permutation, one-sided; “all heads” is corrected for having looked '
        "at every head. Heads were chosen on calibration items; r on test items is of others.</p>"
        "</section>",
        f"<section><h2>Listening score of the test items</h2><p>{said}</p>"
        f"{figure_html(groups, 'scores')}</section>",
        f"<footer><code>{html(command)}</code> · "
        f"{html(versions())}, torch threads {torch.get_num_threads()}</footer>",
    ]
    return page("Which heads listen?", "\n".join(body))
