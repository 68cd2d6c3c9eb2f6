"""The page of a benchmark: every run, the paper's figures beside ours, and where they differ."""

from typing import Any, TypeAlias

import pandas as pd

from lens_audio.plots.benchmark import run_accuracies
from lens_audio.plots.heads import correlation_map, specialists
from lens_audio.plots.pages.runs import controls_section, metrics_section, said_of_run
from lens_audio.plots.report import (
    code,
    columns,
    escape,
    figure_html,
    note,
    report,
    said_versions,
    section,
    table_html,
)
from lens_audio.plots.scores import score_distributions
from lens_audio.plots.steering import steering_curve
from lens_audio.plots.theme import clipped, points, share
from lens_audio.sites import head_name

# `lens_audio.evals.Results`, whose properties are told of there: a room above this one.
Results: TypeAlias = Any

PAPER = "Glazer, Aharon, Fetaya, arXiv 2603.06854"
PUBLISHED = {"Qwen2-Audio-7B-Instruct": 8.0, "R1-AQA": 4.9}  # points gained by steering, on MMAU
MOST = 160  # letters of what a run is
SHOWN = 20  # answers that steering changed, and failures
PANELS = 5
BASE, STEERED, ALL = "base", "steered", "all"  # runs, and the group of all items
MEANING = {
    BASE: "the model as it is",
    STEERED: "audio-silence steering by the specialist heads",
    "random": "the same by as many random heads (control)",
    "fixed": "the calibration items’ mean direction instead of the item’s own (control)",
    "silenced": "silence of equal length in the place of the recording, unsteered (control)",
}


def benchmark_page(found: Results, command: str, model: str = "") -> str:
    """The whole page; the model has the name of its folder or on the hub unless it is given."""
    facts = found.manifest
    model = model or facts["model"]["name"]
    failed = f", {len(found.failed)} of them failed" if found.failed else ""
    return report(
        _named(found),
        (
            model,
            f"{len(found.items)} items{failed}",
            f"prompt {facts['settings']['wording']['name']}",
            f"answers by {facts['settings']['answer_by']}",
        ),
        (
            _runs(found),
            *_of_runs(found),
            *(_of_protocol(found, model)),
            _failed(found),
        ),
        (
            code(command),
            escape(said_versions(facts["versions"])),
            f"seed {escape(facts['settings']['seed'])}",
            f"items {escape(facts['benchmark']['fingerprint'])}",
            f"weights {escape(facts['model']['weights'])}",
        ),
    )


def _of_protocol(found: Results, model: str) -> tuple[str, ...]:
    """What only the paper's protocol has."""
    if _is_of_runs(found):
        return (_by_group(found),)
    return (
        _published(found, model),
        _by_group(found),
        _calibration(found),
        _listening(found),
        _changed(found),
    )


def _of_runs(found: Results) -> tuple[str, ...]:
    """What only evaluations of runs have."""
    if not _is_of_runs(found):
        return ()
    return controls_section(found.against_controls), metrics_section(found.metrics, found.rule)


def _is_of_runs(found: Results) -> bool:
    return "runs" in found.manifest


def _named(found: Results) -> str:
    return f"{found.dataset.name} ({found.dataset.version})"


def _runs(found: Results) -> str:
    meanings = "".join(
        f"<br><b>{escape(run)}</b>: {escape(_meaning(found, run))}" for run in found.runs
    )
    if found.accuracy is None or found.comparison is None:
        return section(
            "Runs",
            "<p>This split’s answers are withheld, so there is no accuracy; the predictions are in "
            f"their files.</p><p>{meanings.removeprefix('<br>')}</p>",
        )
    table = found.accuracy[found.accuracy["group"] == ALL]
    against = found.comparison.set_index("run").to_dict("index")
    header = ["run", "n", "accuracy [95 %]", "points against base [95 %]", "gained", "lost", "p"]
    corrected = "p_corrected" in found.comparison
    header += ["p, corrected"] if corrected else []
    shown = found.accuracy[found.accuracy["group"].isin([ALL, *found.dataset.groups[:1]])]
    shown = shown[shown["value"].isin(list(shown["value"].unique())[:PANELS])]
    return section(
        "Accuracy",
        table_html(header, [_run_row(row, against, corrected) for row in table.to_dict("records")]),
        note(
            "Intervals are over items: of accuracies Wilson’s, of changes a paired bootstrap. Each "
            f"random draw is a run of its own. p is McNemar’s exact test{_correction(found)}."
            f"{meanings}"
        ),
        figure_html(run_accuracies(shown), "runs"),
    )


def _meaning(found: Results, run: str) -> str:
    """What a run is, in words."""
    if not _is_of_runs(found):
        return MEANING[run.split()[0]]
    facts = found.manifest["runs"].get(run)
    if facts is None:
        return MEANING[BASE] if run == BASE else "a function that does not say what it does"
    return clipped(said_of_run(facts), MOST)


def _correction(found: Results) -> str:
    n = len(found.comparison)
    return f", beside it corrected for {n} comparisons by Holm" if _is_of_runs(found) else ""


def _run_row(row: dict[str, Any], against: dict[Any, Any], corrected: bool) -> tuple[object, ...]:
    accuracy = share(row["accuracy"], row["low"], row["high"])
    change = against.get(row["run"])
    if change is None:
        return (row["run"], row["n"], accuracy, *[""] * (4 + corrected))
    return (
        row["run"],
        row["n"],
        accuracy,
        points(change["change"], change["low"], change["high"]),
        change["gained"],
        change["lost"],
        f"{change['p_value']:.2g}",
        *([f"{change['p_corrected']:.2g}"] if corrected else []),
    )


def _published(found: Results, model: str) -> str:
    if found.comparison is None or STEERED not in found.runs:
        return ""
    ours = found.comparison.set_index("run").loc[STEERED]
    published = [(name, f"{gain:+.1f}", PAPER) for name, gain in PUBLISHED.items()]
    gained = points(ours["change"], ours["low"], ours["high"])
    own = [(model, _named(found), gained)]
    warning = (
        "Alike only for the same model, version of the benchmark, split and prompt."
        if found.dataset.name.startswith("MMAU")
        else "This run is not of MMAU: its gain says nothing about the paper’s, nor the paper’s of it."
    )
    return section(
        "Points gained by steering in this run",
        table_html(("model", "benchmark", "points gained [95 % over items]"), own),
    ) + section(
        "Points gained in the paper, on MMAU",
        table_html(("model", "points gained", "source"), published),
        note(warning),
    )


def _by_group(found: Results) -> str:
    if found.accuracy is None:
        return ""
    tables = []
    for group in found.dataset.groups:
        rows = found.accuracy[found.accuracy["group"] == group]
        wide = rows.pivot(index="value", columns="run", values="accuracy")[found.runs]
        n = rows.drop_duplicates("value").set_index("value")["n"]
        cells = [(value, n[value], *(f"{x:.1%}" for x in wide.loc[value])) for value in wide.index]
        tables.append(f"<h3>{escape(group)}</h3>{table_html(('', 'n', *found.runs), cells)}")
    return section("By kind of item", *tables)


def _calibration(found: Results) -> str:
    chosen = found.chosen
    if chosen is None:
        return ""
    heads = ", ".join(head_name(*head) for head in chosen.steering.heads)
    said = f"<p>Specialists: {escape(heads)}. β = {chosen.steering.beta:g}.</p>"
    if chosen.table is None or chosen.correlation is None:
        return section("Steering", said, "<p>Given, not calibrated here.</p>")
    lines = chosen.table.assign(
        method="k = " + chosen.table["k"].astype(str), condition="calibration items",
        low=pd.NA, high=pd.NA,
    )  # fmt: skip
    return section(
        "Calibration",
        said,
        note(
            f"Of {chosen.table['n'].iloc[0]} items that no accuracy above is of. Left: correlation "
            "of each head’s audio mass with right answers. Right: accuracy under every setting. "
            + escape(specialists(chosen.steering.heads, chosen.correlation))
        ),
        columns(
            figure_html(
                correlation_map(chosen.correlation.r, chosen.correlation.significant()), "heads"
            ),
            figure_html(steering_curve(lines), "curves"),
            even=True,
        ),
    )


def _listening(found: Results) -> str:
    if found.auroc is None or found.correct is None:
        return ""
    right: dict[bool, list[float]] = {True: [], False: []}
    for record, correct in zip(found.records, found.correct[BASE].tolist(), strict=True):
        if record["id"] in found.scores:
            right[correct].append(found.scores[record["id"]])
    groups = {"answered right": right[True], "answered wrong": right[False]}
    return section(
        "Listening score",
        f"<p>AUROC for a right answer of the model as it is: {escape(found.auroc)}</p>",
        figure_html(score_distributions(groups), "scores"),
    )


def _changed(found: Results) -> str:
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
    return section(
        "What steering changed",
        f"<p>{len(rows)} items, of which the first {min(len(rows), SHOWN)}; all answers are in "
        "answers.jsonl.</p>",
        table_html(("question", "right", "base", "steered"), rows[:SHOWN]),
    )


def _failed(found: Results) -> str:
    if not found.failed:
        return ""
    rows = list(found.failed.items())[:SHOWN]
    return section(
        "Items that could not be asked",
        f"<p>{len(found.failed)}, counted as wrong in every run.</p>",
        table_html(("item", "reason"), rows),
    )
