"""The page of `lens-audio heads`."""

import torch

from lens_audio.analysis.listening import Specialists
from lens_audio.plots.heads import correlation_map, head_map
from lens_audio.plots.report import (
    code,
    columns,
    escape,
    figure_html,
    note,
    own_versions,
    report,
    section,
    table_html,
)
from lens_audio.plots.scores import score_distributions
from lens_audio.plots.theme import head_name

HEADER = ("head", "mean audio mass", "r", "p", "p, all heads", "r on test items")


def rows(found: Specialists) -> list[tuple[str, ...]]:
    """The specialists, best first, as text under `HEADER`."""
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


def heads_page(found: Specialists, model_name: str, command: str) -> str:
    """The page: both maps, the specialists, the scores of the test items."""
    n_calibration, n_test = len(found.calibration_ids), len(found.test_ids)
    threads = f"{own_versions()}, torch threads {torch.get_num_threads()}"
    return report(
        "Which heads listen?",
        (model_name, f"{n_calibration} calibration and {n_test} test items"),
        (_maps(found), _specialists(found), _scores(found)),
        (code(command), escape(threads)),
    )


def _maps(found: Specialists) -> str:
    mass = head_map(found.mean_mass.float(), limits=(0.0, 1.0), outlined=found.heads)
    correlation = correlation_map(found.calibration.r, found.heads)
    return section(
        "Audio mass, and what it predicts",
        note(
            "Audio mass is the share of a head’s attention, from the last position of the prompt, "
            "that falls on the audio. Left: its mean over the calibration items. Right: Pearson "
            "correlation with right answers. Outlined are the specialists: highest correlation."
        ),
        columns(figure_html(mass, "mass"), figure_html(correlation, "correlation")),
    )


def _specialists(found: Specialists) -> str:
    return section(
        "The specialists",
        table_html(HEADER, rows(found)),
        note(
            "p by permutation, one-sided; “all heads” is corrected for having looked at every "
            "head. Heads were chosen on calibration items; r on test items is of others."
        ),
    )


def _scores(found: Specialists) -> str:
    right, wrong = found.test_scores[found.test_correct], found.test_scores[~found.test_correct]
    groups = score_distributions({"answered right": right, "answered wrong": wrong})
    said = found.undefined or f"AUROC {found.auroc}"
    return section(
        "Listening score of the test items",
        f"<p>{escape(said)}</p>",
        figure_html(groups, "scores"),
    )
