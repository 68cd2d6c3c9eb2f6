"""The page of `lens-audio steer`."""

from collections.abc import Sequence
from dataclasses import dataclass

from lens_audio.plots.heads import correlation_map
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
from lens_audio.steering.audio_silence.calibrate import Calibration
from lens_audio.steering.audio_silence.controls import SteeringReport


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
        (_numbers(lines), *accuracies, _heads(chosen)),
        (code(command), escape(own_versions())),
    )


def _numbers(lines: Sequence[Line]) -> str:
    numbers = [(line.what, line.value, line.verdict) for line in lines]
    return section(
        "Numbers",
        table_html(("", "value [95 % interval]", "aim"), numbers),
        note(
            "Heads and β were chosen on calibration items; everything else is of other recordings."
        ),
    )


def _calibration(chosen: Calibration) -> str:
    table = chosen.table.assign(method="k = " + chosen.table["k"].astype(str), low=None, high=None)
    return section(
        "Accuracy on the calibration items", figure_html(steering_curve(table), "curves")
    )


def _report(tested: SteeringReport) -> str:
    header = ("condition", "method", "n", "accuracy", "change")
    rows = [
        (
            row["condition"],
            row["method"],
            row["n"],
            f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]",
            f"{row['change']:+.3f} [{row['change_low']:+.3f}, {row['change_high']:+.3f}]",
        )
        for row in tested.table.to_dict("records")
    ]
    return section(
        "Accuracy against the strength of steering",
        note("Test items. Random heads and the fixed (mean) direction are controls."),
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
            "Correlation of each head’s audio mass with right answers, over the calibration items."
        ),
        figure_html(correlation_map(chosen.correlation.r, chosen.steering.heads), "heads"),
    )
