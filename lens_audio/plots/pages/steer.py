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
from lens_audio.plots.steering import layer_curve, steering_curve
from lens_audio.plots.theme import points
from lens_audio.sites import head_name
from lens_audio.steering.audio_silence.calibrate import Calibration
from lens_audio.steering.audio_silence.steering_report import SteeringReport
from lens_audio.steering.knockout import CEILING, KnockOut


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
    knocked: KnockOut | None,
    lines: Sequence[Line],
    model_name: str,
    command: str,
) -> str:
    """What is found in short; accuracy against beta, by layer, the scores, knock-outs; numbers."""
    parts = [_calibration(chosen)]
    if tested is not None:
        parts = [_report(tested), _layers(chosen, tested), _scores(tested)]
    if knocked is not None:
        parts.append(_knocked(knocked))
    return report(
        "Audio-silence steering",
        (model_name,),
        (_said(tested), *parts, _numbers(lines), _heads(chosen)),
        (code(command), escape(own_versions())),
    )


def _said(tested: SteeringReport | None) -> str:
    if tested is None:
        return section("In short", "<p>Only calibrated: other items were not asked.</p>")
    return section(
        "In short",
        f'<p class="question">{escape(tested.verdict)}</p>',
        note(escape(tested.depends_on)),
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
    header = (
        "condition",
        "method",
        "β",
        "accuracy [95 %]",
        "points gained [95 %]",
        "our lead [95 %]",
    )
    rows = [
        (
            row["condition"],
            row["method"],
            _range(tested.betas[row["method"]]),
            tested.interval("accuracy", row["condition"], row["method"]),
            *(
                points(*found[:3], found.over)
                for quantity in ("change", "lead")
                for found in (tested.interval(quantity, row["condition"], row["method"]),)
            ),
        )
        for row in tested.table.to_dict("records")
    ]
    return section(
        "Accuracy against the strength of steering",
        note(
            "Test items. In the table every method, and every draw of random heads, has the β that "
            "one rule gives it on the calibration items. “Other layers” hold no specialist: those "
            "before the audio has reached the last position, where the direction is zero by "
            "construction, and those after. Contrastive decoding adds what the audio changes in the "
            "logits. Bands and intervals are over items, but the accuracy of random heads has the "
            "range of 95 % of the draws on these items."
        ),
        figure_html(steering_curve(tested.curves), "curves"),
        table_html(header, rows),
    )


def _range(betas: Sequence[float]) -> str:
    """A strength, or the range of those of the draws."""
    low, high = min(betas), max(betas)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _layers(chosen: Calibration, tested: SteeringReport) -> str:
    before = ", ".join(f"L{layer}" for layer in chosen.layers_before) or "none"
    return section(
        "Steering by each layer alone",
        note(
            "Test items, the direction of one layer at a time; the layers of the specialists are "
            "shaded. A choice of heads is a choice of layers, whose directions are averaged. Layers "
            "before the audio has reached the last position (the mean norm of their direction is "
            f"below a thousandth of the final representation’s, on the calibration items): {before}."
        ),
        figure_html(layer_curve(tested.layers, tested.steering.layers), "layers"),
    )


def knock_out_rows(knocked: KnockOut) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of knock-outs, of all items and of those below the ceiling."""
    n_below = int((knocked.probs[0] < CEILING).sum())
    columns = [knocked.accuracies, knocked.probabilities]
    header = ["knocked out", "accuracy [95 %]", "right answer’s probability"]
    if n_below >= 2:
        columns.append(knocked.below_ceiling().accuracies)
        columns.append(knocked.below_ceiling().probabilities)
    header += ["accuracy, below the ceiling", "probability, below the ceiling"][: len(columns) - 2]
    return tuple(header), [(cut, *(str(column[cut]) for column in columns)) for cut in columns[0]]


def _knocked(knocked: KnockOut) -> str:
    n, n_below = knocked.probs.shape[1], int((knocked.probs[0] < CEILING).sum())
    return section(
        "Without the specialists, and with them alone",
        note(
            "Captionless test items; heads that are knocked out may not attend to the audio from any "
            f"text. Below the ceiling are the {n_below} of {n} items whose right answer has a "
            f"probability under {CEILING:g}: of the others, losing some of what was heard shows "
            "little. Necessary heads cost what all heads cost; sufficient heads cost nothing where "
            "all others are knocked out."
        ),
        table_html(*knock_out_rows(knocked)),
    )


def _scores(tested: SteeringReport) -> str:
    scores = tested.scores[tested.conflict]
    by_audio = tested.by_audio[tested.conflict]
    groups = score_distributions(
        {"answered by the audio": scores[by_audio], "answered by the caption": scores[~by_audio]}
    )
    return section(
        "Listening score of the conflict items",
        note(
            "How well it tells answers by the audio from answers by the caption, beside what is "
            "known without any head. Below 0.5, answers by the audio are those where it is lower."
        ),
        table_html(
            ("", "AUROC [95 %]"),
            [("listening score", tested.auroc_conflict), *tested.baselines.items()],
        ),
        figure_html(groups, "scores"),
    )


def _heads(chosen: Calibration) -> str:
    return section(
        "The specialists",
        note(
            "Correlation of each head’s audio mass with right answers, over the calibration items. "
            + escape(specialists(chosen.steering.heads, chosen.correlation))
        ),
        table_html(
            ("found by", "heads"),
            [
                ("the choice of this page", _names(chosen.steering.heads)),
                *((rule, _names(heads)) for rule, heads in chosen.other_heads.items()),
            ],
        ),
        figure_html(
            correlation_map(chosen.correlation.r, chosen.correlation.significant()), "heads"
        ),
    )


def _names(heads: Sequence[tuple[int, int]]) -> str:
    return " ".join(head_name(*head) for head in heads)
