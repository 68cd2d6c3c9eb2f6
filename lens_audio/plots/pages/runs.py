"""Parts of a benchmark's page that evaluations of runs have: what runs are, controls, metrics."""

from typing import Any

import pandas as pd

from lens_audio.plots.report import escape, note, section, table_html
from lens_audio.plots.theme import points, share


def said_of_run(facts: Any) -> str:
    """What a run is, from its facts in the manifest, without those that are unset."""
    if not isinstance(facts, dict):
        return str(facts)
    if "hooks" in facts:
        said = dict.fromkeys(
            f"{said_of_run(does)} at {said_of_run(at)}" for at, does in facts["hooks"]
        )
        first, *more = said
        return (f"{first}; and {len(more)} more like it" if more else first).replace("{}", "*")
    plain = {k: v for k, v in facts.items() if v not in (None, {}, [], "") and k != "provenance"}
    named = [f"{key} {value}" for key, value in plain.items() if key != "what"]
    return ", ".join([str(facts.get("what", "")), *named]).removeprefix(", ")


def controls_section(table: pd.DataFrame | None) -> str:
    """Each run against its random controls; nothing where none has any.

    Args:
        table: of `evals.scores.against_controls`.
    """
    if table is None or not len(table):
        return ""
    rows = [
        (row["run"], row["draws"], points(row["change"], row["low"], row["high"]), row["over"])
        for row in table.to_dict("records")
    ]
    return section(
        "Against random controls",
        table_html(("run", "draws", "points above its controls [95 %]", "interval over"), rows),
        note(
            "A control is the same intervention with chance in the place of what was found: as many "
            "random heads, or a random direction of equal length. An interval that reaches 0 says "
            "that what was found made no difference that these items show."
        ),
    )


def metric_cells(table: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Metric, run, value and points against the base, metric after metric.

    Args:
        table: of `evals.Results.metrics`.
    """
    cells = []
    for metric in table["metric"].unique():
        for row in table[table["metric"] == metric].to_dict("records"):
            value = row["undefined"] or share(row["value"], row["low"], row["high"])
            changed = ""
            if not pd.isna(row["change"]):
                changed = points(row["change"], row["change_low"], row["change_high"])
            cells.append((str(metric), row["run"], value, changed))
    return cells


def metrics_section(table: pd.DataFrame | None, rule: str) -> str:
    """What the benchmark reports of each run; nothing where that is accuracy alone.

    Args:
        table: of `evals.Results.metrics`.
        rule: whose scoring rule the benchmark follows.
    """
    if table is None or list(table["metric"].unique()) == ["accuracy"]:
        return ""
    return section(
        "What the benchmark reports",
        table_html(
            ("metric", "run", "value [95 %]", "points against base [95 %]"), metric_cells(table)
        ),
        note(
            "Bootstrap intervals over the benchmark’s units: rows that belong together are drawn "
            f"together. {escape(rule)}"
        ),
    )
