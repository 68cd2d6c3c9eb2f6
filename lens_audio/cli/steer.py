"""`lens-audio steer`: the paper's protocol on held-out items of the testbed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import testbed
from lens_audio.cli.checkpoint import CheckpointFiles, load
from lens_audio.cli.checks import shown_name
from lens_audio.cli.commands.steer import FULL, Steer
from lens_audio.cli.heads import held_out
from lens_audio.files import write_text
from lens_audio.plots.pages.steer import Line, knock_out_rows, steer_page
from lens_audio.plots.report import write_page
from lens_audio.plots.theme import points
from lens_audio.sites import head_name
from lens_audio.stats import Interval
from lens_audio.steering.audio_silence.calibrate import KS, Calibration, calibrate
from lens_audio.steering.audio_silence.controls import report
from lens_audio.steering.audio_silence.steering_report import (
    CONFLICT,
    OURS,
    UNSTEERED,
    SteeringReport,
)
from lens_audio.steering.knockout import KnockOut, knock_out
from lens_audio.tables import write_table as write_csv

SECONDS = 0.04  # of a core, for each item and what is tried on it: the embedded checkpoint


def run(request: Steer) -> None:
    """Calibrate, report on other items, print, write the table and the page."""
    console = Console(highlight=False)
    console.print(escape(plan(request)), soft_wrap=True)
    n_calibration, n_test, draws = request.sizes
    checkpoint = CheckpointFiles.read(request.model, request.device)
    # Random heads are drawn in addition to the specialists.
    checkpoint.check_heads(max(KS) if request.calibrate else 2 * max(KS))
    make = testbed.make_scene_items if request.items == "scenes" else testbed.make_items
    items = held_out(n_calibration, request.seed, make)
    checkpoint.check_items(items)
    model = load(request.model, request.device)
    common: dict[str, Any] = {"seed": request.seed, "batch_size": request.batch_size}
    what = f"{request.items}, {n_calibration} items a caption, seed {request.seed}"
    found_on = request.specialists_from
    chosen = calibrate(
        model,
        items,
        adaptive=request.adaptive,
        floor=request.floor,
        specialists_from=None if found_on == "all" else found_on,
        data=what,
        **common,
    )
    if request.save is not None:
        chosen.steering.save(request.save)
    tested, knocked = None, None
    if not request.calibrate:
        # The seed after the calibration's: other recordings, fixed before looking at any.
        test = held_out(n_test, request.seed + 1, make)
        tested = report(model, chosen, test, n_draws=draws, **common)
        plain = [item for item in test if item.condition == "captionless"]
        knocked = knock_out(model, plain, chosen.steering.heads, n_draws=draws, **common)
    lines = numbers(chosen, tested, knocked)
    write_table(request.table, chosen, tested, knocked, lines)
    name, command = shown_name(request.model), request.shown(with_defaults=True)
    write_page(request.out, steer_page(chosen, tested, knocked, lines, name, command))
    show(lines, chosen, tested, knocked, console)
    for label, path in (("Table", request.table), ("Page", request.out), ("Saved", request.save)):
        if path is not None:
            console.print(f"{label}: {escape(str(path))}", soft_wrap=True)


def plan(request: Steer) -> str:
    """What will be run, and for the embedded checkpoint about how long it takes on one core."""
    n_calibration, n_test, draws = request.sizes
    asked = f"{n_calibration} calibration items per caption"
    if not request.calibrate:
        asked += f", {n_test} others to report on, {draws} sets of random heads"
    if request.model is None:
        asked += (
            f": {_minutes(n_calibration, 0 if request.calibrate else n_test, draws)} on one core"
        )
    if request.full:
        return f"Full: {asked}."
    return f"Quick: {asked}. The whole (--full) uses {FULL[0]}, {FULL[1]} and {FULL[2]}" + (
        f": {_minutes(*FULL)}." if request.model is None else "."
    )


def _minutes(n_calibration: int, n_test: int, draws: int) -> str:
    seconds = SECONDS * (4 * n_calibration + (5 + draws) * n_test)
    return f"about {max(1, round(seconds / 60))} min"


def numbers(
    chosen: Calibration, tested: SteeringReport | None, knocked: KnockOut | None
) -> list[Line]:
    """Every number the report is asked for, whatever it shows."""
    found_on = chosen.specialists_from or "all"
    lines = [
        Line(f"specialist heads ({found_on} calibration items)", _names(chosen.steering.heads))
    ]
    lines += [Line(f"{rule} (beside)", _names(h)) for rule, h in chosen.other_heads.items()]
    said = f"{chosen.steering.beta:g}, {chosen.steering.adaptive}"
    lines.append(Line("beta (calibration items)", said))
    if knocked is not None:
        drop = knocked.drop_difference
        lines += [
            Line("captionless: drop by specialists minus drop by random heads", gain(drop),
                 "above 0", drop.low > 0),
            Line("same, of the right answer's probability", gain(knocked.prob_drop_difference)),
        ]  # fmt: skip
    if tested is not None:
        lines += _steering_numbers(tested)
    return lines


def _names(heads: Sequence[tuple[int, int]]) -> str:
    return " ".join(head_name(*head) for head in heads)


def _steering_numbers(tested: SteeringReport) -> list[Line]:
    score = tested.auroc_conflict
    lines = [
        Line("AUROC of the listening score, conflict items answered by the audio", str(score),
             "at least 0.75", score.value >= 0.75),
        Line("same, specialists found on all calibration items", str(tested.auroc_of_all)),
    ]  # fmt: skip
    lines += [Line(f"same, of a baseline: {n}", str(i)) for n, i in tested.baselines.items()]
    lines.append(Line("AUROC, all items, answers that silence would change", str(tested.auroc_all)))
    for condition in tested.table["condition"].unique():
        change = tested.interval("change", condition)
        is_conflict = condition == CONFLICT
        met = change.value >= 0.4 and change.low > 0 if is_conflict else change.value >= -0.03
        aim = "at least +40" if is_conflict else "at least -3"
        lines.append(Line(f"{condition}: change by steering, points", gain(change), aim, met))
    for method in tested.betas:
        if method not in (UNSTEERED, OURS):
            change = tested.interval("change", CONFLICT, method)
            lines.append(Line(f"{CONFLICT}: change by {method} (control)", gain(change)))
            lead = tested.interval("lead", CONFLICT, method)
            lines.append(Line(f"{CONFLICT}: steering ahead of {method} by", gain(lead)))
    changed = f"{tested.text_only_changed} of {tested.n_text_only}"
    met = tested.text_only_changed == 0
    return [*lines, Line("text-only prompts changed", changed, "none", met)]


def gain(change: Interval) -> str:
    """A difference in points, and what its interval is over unless that is items."""
    return points(*change[:3], change.over)


def write_table(
    path: Path,
    chosen: Calibration,
    tested: SteeringReport | None,
    knocked: KnockOut | None,
    lines: list[Line],
) -> None:
    """The report's table (without a report the calibration's) as CSV, or everything as JSON."""
    if path.suffix == ".csv":
        write_csv(chosen.table if tested is None else tested.table, path)
        return
    facts: dict[str, Any] = {
        "numbers": [vars(line) for line in lines],
        "calibration": json.loads(chosen.table.to_json(orient="records")),
        "calibration_ids": chosen.ids,
        "other_heads": chosen.other_heads,
        "layers_before": chosen.layers_before,
        "r": chosen.correlation.r.tolist(),
    }
    if tested is not None:
        facts["report"] = tested.to_dict()
    if knocked is not None:
        facts["knock_out"] = {
            "accuracy": {name: i.to_dict() for name, i in knocked.accuracies.items()},
            "probability": {name: i.to_dict() for name, i in knocked.probabilities.items()},
            "drop_difference": knocked.drop_difference.to_dict(),
            "draws": knocked.draws,
        }
    write_text(path, json.dumps(facts, indent=1) + "\n")


def show(
    lines: list[Line],
    chosen: Calibration,
    tested: SteeringReport | None,
    knocked: KnockOut | None,
    console: Console,
) -> None:
    """Print the numbers, and the accuracy of every method in every condition."""
    if tested is not None:
        console.print(f"[bold]{escape(tested.verdict)}[/]\n{tested.depends_on}")
    title = "audio-silence steering; intervals are over items unless they say otherwise"
    table = Table("number", "value [95 % interval]", "aim", title=title)
    for line in lines:
        table.add_row(escape(line.what), escape(line.value), escape(line.verdict))
    console.print(table)
    if knocked is not None:
        header, rows = knock_out_rows(knocked)
        cuts = Table(*header, title="captionless items, attention to the audio knocked out")
        for cells in rows:
            cuts.add_row(*map(escape, cells))
        console.print(cuts)
    source = chosen.table[chosen.table["chosen"]] if tested is None else tested.table
    accuracies = Table("condition", "method", "n", "accuracy", title="accuracy")
    for row in source.to_dict("records"):
        method = row.get("method", "audio-silence")
        value = f"{row['accuracy']:.3f}"
        if tested is not None:
            value = str(tested.interval("accuracy", row["condition"], method))
        accuracies.add_row(row["condition"], method, str(row["n"]), escape(value))
    console.print(accuracies)
