"""The page of `lens-audio heads`."""

import torch

from lens_audio.analysis.listening import LEVEL, Specialists, best_heads
from lens_audio.plots.heads import correlation_map, head_map, specialists
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
from lens_audio.sites import head_name

HEADER = ("head", "mean audio mass", "r", "p", "p, all heads", "r on test items")
CONDITIONS = ("condition", "n", "right", "highest r", "significant heads", "AUROC [95 %]")


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
    kind = "within caption conditions" if found.stratified else "all conditions together"
    threads = f"{own_versions()}, torch threads {torch.get_num_threads()}"
    return report(
        "Which heads listen?",
        (model_name, f"{n_calibration} calibration and {n_test} test items", kind),
        (_maps(found), _specialists(found), _conditions(found), _scores(found)),
        (code(command), escape(threads)),
    )


def _maps(found: Specialists) -> str:
    significant = found.calibration.significant()
    mass = head_map(found.mean_mass.float(), limits=(0.0, 1.0), outlined=significant)
    correlation = correlation_map(found.calibration.r, significant)
    how = (
        "within caption conditions: an item counts by how it differs from the others of its "
        "condition, so a head that only tells conditions apart has none"
        if found.stratified
        else "over all conditions together: a head that only tells conditions apart has one too"
    )
    return section(
        "Audio mass, and what it predicts",
        note(
            "Audio mass is the share of a head’s attention, from the last position of the prompt, "
            "that falls on the audio. Left: its mean over the calibration items. Right: Pearson "
            f"correlation with right answers, {how}. "
            + escape(specialists(found.heads, found.calibration))
        ),
        columns(figure_html(mass, "mass"), figure_html(correlation, "correlation")),
    )


def _specialists(found: Specialists) -> str:
    return section(
        "The specialists",
        table_html(HEADER, rows(found)),
        note(
            "p by permutation, one-sided; “all heads” is corrected for having looked at every "
            f"head, and significant below {LEVEL:g}. Heads were chosen on calibration "
            "items; r on test items is of others."
        ),
    )


def condition_rows(found: Specialists) -> list[tuple[str, ...]]:
    """Each condition on its own, as text under `CONDITIONS`."""
    rows: list[tuple[str, ...]] = []
    for name, part in found.within.items():
        here = part.correlation
        if here.undefined is None:
            best = best_heads(here.r, 1)[0]
            said = f"{head_name(*best)} ({float(here.r[best]):+.3f})"
            significant = " ".join(head_name(*h) for h in here.significant()) or "none"
        else:
            said = significant = "undefined"
        rows.append((name, str(part.n), f"{part.accuracy:.3f}", said, significant, str(part.auroc)))
    return rows


def _conditions(found: Specialists) -> str:
    return section(
        "Each caption condition on its own",
        table_html(CONDITIONS, condition_rows(found)),
        note(
            "Where all answers are right, or all wrong, there is no correlation. AUROC of the "
            "specialists’ listening score for a right answer, with a 95 % interval over test items."
        ),
    )


def _scores(found: Specialists) -> str:
    names = list(dict.fromkeys(found.test_conditions))
    scores = {}
    for name in names:
        here = torch.tensor([condition == name for condition in found.test_conditions])
        for said, right in (("right", found.test_correct), ("wrong", ~found.test_correct)):
            if bool((here & right).any()):
                scores[f"{name}: {said}"] = found.test_scores[here & right]
    groups = score_distributions(scores)
    mixed = ", conditions mixed" if len(names) > 1 else ""
    said = found.undefined or f"AUROC over items{mixed}: {found.auroc}"
    return section(
        "Listening score of the test items",
        f"<p>{escape(said)}</p>",
        figure_html(groups, "scores"),
    )
