"""The report of a benchmark: every run, the paper's figures beside ours, and where they differ."""

from typing import Any

import pandas as pd

from lens_audio.evals.protocol import BASE, STEERED
from lens_audio.evals.results import Answers
from lens_audio.evals.scores import ALL
from lens_audio.plots.benchmark import run_accuracies
from lens_audio.plots.heads import head_map
from lens_audio.plots.report import escape, figure_html, page, table_html
from lens_audio.plots.scores import score_distributions
from lens_audio.plots.steering import steering_curve
from lens_audio.plots.theme import clipped, head_name

PAPER = "Glazer, Aharon, Fetaya, arXiv 2603.06854"
PUBLISHED = {"Qwen2-Audio-7B-Instruct": 8.0, "R1-AQA": 4.9}  # points gained by steering, on MMAU
SHOWN = 20  # answers that steering changed, and failures
PANELS = 5
MEANING = {
    BASE: "the model as it is",
    STEERED: "audio-silence steering by the specialist heads",
    "random": "the same by as many random heads (control)",
    "fixed": "the calibration items’ mean direction instead of the item’s own (control)",
    "silenced": "silence of equal length in the place of the recording, unsteered (control)",
}


def results_page(found: Answers, command: str) -> str:
    """The whole page."""
    facts = found.manifest
    failed = f", {len(found.failed)} of them failed" if found.failed else ""
    where = f"{found.dataset.name} ({found.dataset.version})"
    body = [
        f"<header><h1>{escape(where)}</h1><p>{escape(facts['model']['name'])} · "
        f"{len(found.items)} items{failed} · prompt {escape(facts['settings']['wording']['name'])}"
        f" · answers by {escape(facts['settings']['answer_by'])}</p></header>",
        _runs(found),
        _published(found),
        _by_group(found),
        _calibration(found),
        _listening(found),
        _changed(found),
        _failed(found),
        _footer(facts, command),
    ]
    return page(where, "\n".join(body))


def _runs(found: Answers) -> str:
    meanings = "".join(
        f"<br><b>{escape(run)}</b>: {escape(MEANING[run.split()[0]])}" for run in found.runs
    )
    if found.accuracy is None or found.comparison is None:
        return (
            f"<section><h2>Runs</h2><p>This split’s answers are withheld, so there is no accuracy; "
            f"the predictions are in their files.</p><p>{meanings.removeprefix('<br>')}</p></section>"
        )
    table = found.accuracy[found.accuracy["group"] == ALL]
    against = found.comparison.set_index("run").to_dict("index")
    header = ("run", "n", "accuracy [95 %]", "points against base [95 %]", "gained", "lost", "p")
    first = found.dataset.groups[0]
    shown = found.accuracy[found.accuracy["group"].isin([ALL, first])]
    shown = shown[shown["value"].isin(list(shown["value"].unique())[:PANELS])]
    return (
        "<section><h2>Accuracy</h2>"
        f"{table_html(header, [_run_row(row, against) for row in table.to_dict('records')])}"
        f'<p class="note">Intervals of accuracies are Wilson’s; of changes a paired bootstrap over '
        f"items. p is McNemar’s exact test.{meanings}</p>"
        f"{figure_html(run_accuracies(shown), 'runs')}</section>"
    )


def _run_row(row: dict[str, Any], against: dict[str, dict[str, Any]]) -> tuple[object, ...]:
    change = against.get(row["run"])
    if change is None:
        return (row["run"], row["n"], share(row), "", "", "", "")
    return (
        row["run"], row["n"], share(row), points(change), change["gained"], change["lost"],
        f"{change['p_value']:.2g}",
    )  # fmt: skip


def share(row: dict[str, Any]) -> str:
    """An accuracy with its interval."""
    return f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def points(change: dict[str, Any]) -> str:
    """A change in percentage points with its interval."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(
        *(100 * change[name] for name in ("change", "low", "high"))
    )


def _published(found: Answers) -> str:
    if found.comparison is None or STEERED not in found.runs:
        return ""
    ours = found.comparison.set_index("run").loc[STEERED].to_dict()
    rows = [(model, "MMAU", f"{gain:+.1f}", PAPER) for model, gain in PUBLISHED.items()]
    where = f"{found.dataset.name} ({found.dataset.version})"
    rows.append((found.manifest["model"]["name"], where, points(ours), "this run"))
    return (
        "<section><h2>Beside the paper</h2>"
        f"{table_html(('model', 'benchmark', 'points gained by steering', 'source'), rows)}"
        '<p class="note">Alike only for the same model, version of the benchmark, split and prompt.'
        "</p></section>"
    )


def _by_group(found: Answers) -> str:
    if found.accuracy is None:
        return ""
    tables = []
    for group in found.dataset.groups:
        rows = found.accuracy[found.accuracy["group"] == group]
        wide = rows.pivot(index="value", columns="run", values="accuracy")[found.runs]
        n = rows.drop_duplicates("value").set_index("value")["n"]
        cells = [(value, n[value], *(f"{x:.1%}" for x in wide.loc[value])) for value in wide.index]
        tables.append(f"<h3>{escape(group)}</h3>{table_html(('', 'n', *found.runs), cells)}")
    return f"<section><h2>By kind of item</h2>{''.join(tables)}</section>"


def _calibration(found: Answers) -> str:
    chosen = found.chosen
    if chosen is None:
        return ""
    heads = ", ".join(head_name(*head) for head in chosen.steering.heads)
    said = f"<p>Specialists: {escape(heads)}. β = {chosen.steering.beta:g}.</p>"
    if chosen.table is None or chosen.correlation is None:
        return f"<section><h2>Steering</h2>{said}<p>Given, not calibrated here.</p></section>"
    r = chosen.correlation.r.nan_to_num(0.0).float()
    limit = max(0.05, float(r.abs().max()))
    figure = head_map(
        r, "correlation with right answers", signed=True, outlined=chosen.steering.heads,
        limits=(-limit, limit),
    )  # fmt: skip
    lines = chosen.table.assign(
        method="k = " + chosen.table["k"].astype(str), condition="calibration items",
        low=pd.NA, high=pd.NA,
    )  # fmt: skip
    return (
        f"<section><h2>Calibration</h2>{said}"
        f'<p class="note">Of {chosen.table["n"].iloc[0]} items that no accuracy above is of. Left: '
        "correlation of each head’s attention on the audio with right answers. Right: accuracy "
        f"under every setting.</p><div class='grid even'><div>{figure_html(figure, 'heads')}</div>"
        f"<div>{figure_html(steering_curve(lines), 'curves')}</div></div></section>"
    )


def _listening(found: Answers) -> str:
    if found.auroc is None or found.correct is None:
        return ""
    right: dict[bool, list[float]] = {True: [], False: []}
    for record, correct in zip(found.records, found.correct[BASE].tolist(), strict=True):
        if record["id"] in found.scores:
            right[correct].append(found.scores[record["id"]])
    groups = {"answered right": right[True], "answered wrong": right[False]}
    return (
        "<section><h2>Listening score</h2><p>AUROC for a right answer of the model as it is: "
        f"{escape(found.auroc)}</p>{figure_html(score_distributions(groups), 'scores')}</section>"
    )


def _changed(found: Answers) -> str:
    """Items that steering answers rightly or wrongly, unlike the base."""
    if found.correct is None or STEERED not in found.runs:
        return ""
    rows = []
    for item, record, before, after in zip(
        found.items, found.records, found.correct[BASE], found.correct[STEERED], strict=True
    ):
        if before != after:
            said = (clipped(record["runs"][run]["prediction"], 60) for run in (BASE, STEERED))
            rows.append((clipped(item.question, 160), item.answer, *said))
    return (
        f"<section><h2>What steering changed</h2><p>{len(rows)} items, of which the first "
        f"{min(len(rows), SHOWN)}; all answers are in answers.jsonl.</p>"
        f"{table_html(('question', 'right', 'base', 'steered'), rows[:SHOWN])}</section>"
    )


def _failed(found: Answers) -> str:
    if not found.failed:
        return ""
    rows = list(found.failed.items())[:SHOWN]
    return (
        f"<section><h2>Items that could not be asked</h2><p>{len(found.failed)}, counted as wrong in "
        f"every run.</p>{table_html(('item', 'reason'), rows)}</section>"
    )


def _footer(facts: dict[str, Any], command: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"<footer><code>{escape(command)}</code> · {escape(versions)} · seed "
        f"{escape(facts['settings']['seed'])} · items {escape(facts['benchmark']['fingerprint'])} · "
        f"weights {escape(facts['model']['weights'])}</footer>"
    )
