"""The page of `lens-audio steer`."""

from collections.abc import Sequence
from dataclasses import dataclass

from lens_audio.plots.heads import correlation_map, specialists
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
from lens_audio.plots.scores import score_distributions
from lens_audio.plots.steering import steering_curve
from lens_audio.plots.theme import points
from lens_audio.steering.audio_silence.calibrate import Calibration
from lens_audio.steering.audio_silence.controls import SteeringReport


def depends_on(tested: SteeringReport) -> str:
    """In a sentence, how this steering depends on the chosen heads."""
    said = "The direction that is added depends only on which layers hold the heads"
    if tested.steering.adaptive == "listening":
        return f"{said}; the heads themselves only set how much of it is added."
    return f"{said}, not on the heads: this steering cannot tell heads of one layer apart."


@dataclass(frozen=True)
class Line:
    """One number of the report: what it is, its value with interval, and the aim set beforehand."""

    what: str
    value: str
    aim: str = ""
    met: bool | None = None  # None without an aim

    @property
    def verdict(self) -> str:
        """The aim, and whether it is reached."""
        return self.aim if self.met is None else f"{self.aim}: {'yes' if self.met else 'no'}"


def steer_page(
    chosen: Calibration,
    tested: SteeringReport | None,
    lines: Sequence[Line],
    model_name: str,
    command: str,
) -> str:
    """The numbers with their aims, accuracy against beta, the specialists, the listening scores."""
    accuracies = [_calibration(chosen)] if tested is None else [_report(tested), _scores(tested)]
    return report(
        "Audio-silence steering",
        (model_name,),
        (_said(tested), *accuracies, _numbers(lines), _heads(chosen)),
        (code(command), escape(own_versions())),
    )


def _said(tested: SteeringReport | None) -> str:
    if tested is None:
        return section("In short", "<p>Only calibrated: other items were not asked.</p>")
    return section(
        "In short", f'<p class="question">{escape(tested.verdict)}</p>', note(depends_on(tested))
    )


def _numbers(lines: Sequence[Line]) -> str:
    numbers = [(line.what, line.value, line.verdict) for line in lines]
    return section(
        "Numbers",
        table_html(("", "value [95 % interval]", "aim"), numbers),
        note(
            "Heads and β were chosen on calibration items; everything else is of other recordings. "
            "Intervals of 95 % are over items unless they say otherwise. One over draws is the range "
            "of the random sets of heads on these items, and says nothing of other items."
        ),
    )


def _calibration(chosen: Calibration) -> str:
    table = chosen.table.assign(method="k = " + chosen.table["k"].astype(str), low=None, high=None)
    return section(
        "Accuracy on the calibration items", figure_html(steering_curve(table), "curves")
    )


def _report(tested: SteeringReport) -> str:
    header = ("condition", "method", "n", "accuracy [95 %]", "points gained [95 %]")
    rows = [
        (
            row["condition"],
            row["method"],
            row["n"],
            tested.interval("accuracy", row["condition"], row["method"]),
            points(*gained[:3], gained.over),
        )
        for row in tested.table.to_dict("records")
        for gained in (tested.interval("change", row["condition"], row["method"]),)
    ]
    return section(
        "Accuracy against the strength of steering",
        note(
            "Test items. Random heads and the fixed (mean) direction are controls. Bands and "
            "intervals are over items, but the accuracy of random heads has the range of 95 % of "
            "the draws on these items."
        ),
        figure_html(steering_curve(tested.curves), "curves"),
        table_html(header, rows),
    )


def _scores(tested: SteeringReport) -> str:
    scores = tested.scores[tested.conflict]
    by_audio = tested.by_audio[tested.conflict]
    groups = score_distributions(
        {"answered by the audio": scores[by_audio], "answered by the caption": scores[~by_audio]}
    )
    return section(
        "Listening score of the conflict items",
        f"<p>AUROC {escape(tested.auroc_conflict)}</p>",
        figure_html(groups, "scores"),
    )


def _heads(chosen: Calibration) -> str:
    return section(
        "The specialists",
        note(
            "Correlation of each head’s audio mass with right answers, over the calibration items. "
            + escape(specialists(chosen.steering.heads, chosen.correlation))
        ),
        figure_html(
            correlation_map(chosen.correlation.r, chosen.correlation.significant()), "heads"
        ),
    )
