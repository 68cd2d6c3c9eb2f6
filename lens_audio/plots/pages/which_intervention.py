"""The page of `lens-audio which-intervention`."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from lens_audio.plots.interventions import intervention_effects
from lens_audio.plots.report import (
    code,
    escape,
    figure_html,
    note,
    own_versions,
    report,
    section,
    table_html,
)
from lens_audio.plots.theme import number, points, share

# `lens_audio.evals.interventions.InterventionComparison`: of a room above this one.
Comparison: TypeAlias = Any

LIMITS = (
    "These are small models trained on synthesised sounds, with captions of a few forms. What leads "
    "here says that the tools do what they should; it does not say what would lead on a published model. "
    "Strengths were chosen on other clips of the same kind, and each intervention had one chance to be "
    "tuned by one rule. Times are of models of a few million parameters and clips of two seconds."
)


def which_intervention_page(found: Sequence[Comparison], command: str) -> str:
    """Every intervention on every checkpoint: what it gains in conflict, and what it costs."""
    first = found[0]
    n = len(first.results.items) // len(first.conditions)
    return report(
        "Which intervention?",
        (", ".join(one.checkpoint for one in found), f"{n} test items a condition"),
        (
            _said(found),
            *(section(one.checkpoint, _effects(one), _numbers(one)) for one in found),
            _adaptive(found),
            _kinds(found),
        ),
        (code(command), escape(own_versions())),
    )


def _said(found: Sequence[Comparison]) -> str:
    sentences = "".join(f"<li>{escape(said)}</li>" for one in found for said in one.findings)
    return section("In short", f"<ul>{sentences}</ul>", note(LIMITS))


def _effects(one: Comparison) -> str:
    if one.table.empty:
        return "<p>No intervention helped on the calibration clips within its cost.</p>"
    return figure_html(intervention_effects(one.table), f"effects-{one.checkpoint}")


def effect_cells(one: Comparison) -> list[tuple[str, ...]]:
    """Of each run its name, strength, points gained in each condition, and time over the base's."""
    ends = ("", "_low", "_high")
    return [
        (
            row["run"],
            f"{row['strength']:g}",
            *(points(*(row[f"{name}{end}"] for end in ends)) for name in one.conditions),
            number(*(row[f"time{end}"] for end in ends)),
        )
        for row in one.table.to_dict("records")
    ]


def _numbers(one: Comparison) -> str:
    if one.table.empty:
        return ""
    header = ("run", "strength", *one.conditions, "follows a false caption", "time over base")
    followed = one.results.metrics.set_index(["metric", "run"])
    rows = []
    for *cells, spent in effect_cells(one):
        caption = followed.loc["follows a false caption", cells[0]]
        said = share(caption["value"], caption["low"], caption["high"])
        rows.append((*cells, said, spent))
    base = followed.loc["follows a false caption", "base"]
    return table_html(header, rows) + note(
        "Changes are points of accuracy against the model as it is, paired, with a 95 % bootstrap over "
        "clips. A sound that a false caption names is not in the recording: the model as it is affirms "
        f"it in {share(base['value'], base['low'], base['high'])} of conflict items. Random controls are "
        "the same intervention with chance in the place of what was found. Time is of an answer of 16 "
        "tokens to one prompt, the median of alternating rounds."
    )


def _adaptive(found: Sequence[Comparison]) -> str:
    """Does it help to steer more where the model listens less, or is less sure?"""
    rows = []
    for one in found:
        for row in one.adaptive.to_dict("records"):
            if row["adaptive"] == "constant" or row["condition"] != "conflict":
                continue
            change = points(row["change"], row["change_low"], row["change_high"])
            told = (row["adaptive"], f"{row['strength']:g}", f"{row['mean_strength']:.2f}")
            rows.append(
                (one.checkpoint, *told, share(row["accuracy"], row["low"], row["high"]), change)
            )
    header = (
        "checkpoint", "scaled by", "mean strength asked for", "on the test clips",
        "accuracy in conflict", "points against constant strength",
    )  # fmt: skip
    return section(
        "Strength scaled to each item, at equal mean strength",
        table_html(header, rows),
        note(
            "Audio-silence steering by β · (1 - listening score) and β · (1 - confidence), with β raised "
            "until its mean over the calibration items is that of the constant strength."
        ),
    )


def _kinds(found: Sequence[Comparison]) -> str:
    rows = []
    for one in found:
        for row in one.kinds.to_dict("records"):
            if row["asked"]:
                why = "asked"
            else:
                why = "left out: " + (
                    "less than 10 points above chance" if row["trained"] else "not trained on"
                )
            accuracy = share(row["accuracy"], row["low"], row["high"])
            rows.append((one.checkpoint, row["kind"], accuracy, f"{row['chance']:.0%}", why))
    return section(
        "Kinds of question",
        table_html(("checkpoint", "kind", "accuracy without a caption", "chance", ""), rows),
    )
