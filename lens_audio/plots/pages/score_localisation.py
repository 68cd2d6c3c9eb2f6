"""The page of `lens-audio score-localisation`."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lens_audio.plots.localisation import localisation_scores
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
from lens_audio.plots.theme import number
from lens_audio.testbed import Truth

SCORE_HEADER = ("AUROC [95 %]", "precision [95 %]", "decoys", "AUROC of edges [95 %]", "forwards")


def score_localisation_page(
    table: pd.DataFrame, truths: Sequence[Truth], findings: Sequence[str], command: str
) -> str:
    """What the table says, where the truth comes from, and every method side by side.

    Args:
        table, truths, findings: of a score card (`evals.localisation.ScoreCard`).
    """
    conditions = [
        section(
            f"Do they find the readers? {condition}, {rows['n_pairs'].iloc[0]} pairs",
            figure_html(localisation_scores(rows), f"scores-{i}"),
        )
        for i, (condition, rows) in enumerate(table.groupby("condition", sort=False))
    ]
    return report(
        "Methods that localise, scored",
        (", ".join(truth.checkpoint for truth in truths), f"{table['method'].nunique()} methods"),
        (_said(findings), *conditions, _truths(truths), _numbers(table)),
        (code(command), escape(own_versions())),
    )


def _said(findings: Sequence[str]) -> str:
    first, *others = findings
    rest = "".join(f"<li>{escape(sentence)}</li>" for sentence in others)
    return section(
        "In short", f'<p class="question">{escape(first)}</p>', f"<ul>{rest}</ul>" if rest else ""
    )


def _truths(truths: Sequence[Truth]) -> str:
    return section(
        "Where the truth comes from",
        *(f"<p>{escape(truth_said(truth))}</p>" for truth in truths),
        note(
            "Backups are not labelled, nor on conflict items the heads of a planted veto’s layers, "
            "except for readers in them. Decoys are labelled as no readers."
        ),
    )


def truth_said(truth: Truth) -> str:
    """What is known of a checkpoint, how, and what may be concluded from finding it."""
    if truth.by_construction:
        follows = "Planted: finding them validates the tool, and is no evidence for the paper."
    else:
        follows = (
            "They emerged in training: what leads here, or does not, is evidence about small models "
            "only. Where readers are known by knock-out, the scores of knock-out and of only this "
            "head are no independent check."
        )
    return f"{truth.checkpoint}: {truth.named_heads}. Known {truth.known_by}. {follows}"


def _numbers(table: pd.DataFrame) -> str:
    header = ("method", *SCORE_HEADER, "first heads")
    tables = []
    for (checkpoint, condition), rows in table.groupby(["checkpoint", "condition"], sort=False):
        cells = [(r["method"], *score_cells(r), r["heads"]) for r in rows.to_dict("records")]
        tables.append(f"<h3>{escape(f'{checkpoint}, {condition}')}</h3>{table_html(header, cells)}")
    return section(
        "Numbers",
        note(
            "AUROC: how often a reader’s score is above another labelled head’s. Precision: the share "
            "of readers among the first k heads, k being the number of readers; of heads with equal "
            "scores the mean over all orders. Decoys: their share there. AUROC of edges, of methods that "
            "score them: how often the edge from the audio into a reader’s keys or values is larger "
            "than one into another head’s, decoys and backups left out. Intervals of 95 % are a "
            "bootstrap over pairs. Forwards are of a pair: a run that begins later or continues a "
            "cache is one too, and a backward is two."
        ),
        *tables,
    )


def score_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """What `SCORE_HEADER` names, of a row of a score card's table."""
    auroc, precision, edges = (
        number(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))
        for name in ("auroc", "precision", "edge_auroc")
    )
    decoys = "undefined" if pd.isna(row["decoys"]) else f"{row['decoys']:.0%}"
    forwards = "not told" if pd.isna(row["forwards"]) else str(row["forwards"])
    return (auroc, precision, decoys, "" if pd.isna(row["edge_auroc"]) else edges, forwards)
