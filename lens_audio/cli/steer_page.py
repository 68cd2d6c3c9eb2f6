"""The page of `lens-audio steer`."""

from collections.abc import Sequence
from typing import Any

from lens_audio.cli.listen import versions
from lens_audio.plots import head_map, score_distributions, steering_curve
from lens_audio.plots.report import escape, figure_html, page, table_html
from lens_audio.steering.audio_silence.calibrate import Calibration
from lens_audio.steering.audio_silence.controls import SteeringReport


def steer_page(
    chosen: Calibration,
    tested: SteeringReport | None,
    lines: Sequence[Any],
    model_name: str,
    command: str,
) -> str:
    """The numbers with their aims, accuracy against beta, the specialists, the listening scores."""
    numbers = [(line.what, line.value, line.verdict) for line in lines]
    body = [
        f"<header><h1>Audio-silence steering</h1><p>{escape(model_name)}</p></header>",
        f"<section><h2>Numbers</h2>{table_html(('', 'value [95 % interval]', 'aim'), numbers)}"
        '<p class="note">Heads and β were chosen on calibration items; everything else is of other '
        "recordings.</p></section>",
        _calibration(chosen) if tested is None else _report(tested),
        _heads(chosen),
        f"<footer><code>{escape(command)}</code> · {escape(versions())}</footer>",
    ]
    return page("Audio-silence steering", "\n".join(body))


def _calibration(chosen: Calibration) -> str:
    table = chosen.table.assign(method="k = " + chosen.table["k"].astype(str), low=None, high=None)
    return (
        "<section><h2>Accuracy on the calibration items</h2>"
        f"{figure_html(steering_curve(table), 'curves')}</section>"
    )


def _report(tested: SteeringReport) -> str:
    scores = tested.scores[tested.conflict]
    by_audio = tested.by_audio[tested.conflict]
    groups = score_distributions(
        {"answered by the audio": scores[by_audio], "answered by the caption": scores[~by_audio]}
    )
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
    return (
        "<section><h2>Accuracy against the strength of steering</h2>"
        '<p class="note">Test items. Random heads and the fixed (mean) direction are controls.</p>'
        f"{figure_html(steering_curve(tested.curves), 'curves')}"
        f"{table_html(header, rows)}</section>"
        "<section><h2>Listening score of the conflict items</h2>"
        f"<p>AUROC {escape(tested.auroc_conflict)}</p>{figure_html(groups, 'scores')}</section>"
    )


def _heads(chosen: Calibration) -> str:
    r = chosen.correlation.r.nan_to_num(0.0).float()
    limit = max(0.05, float(r.abs().max()))
    figure = head_map(
        r,
        "correlation with right answers",
        signed=True,
        outlined=chosen.steering.heads,
        limits=(-limit, limit),
    )
    return (
        "<section><h2>The specialists</h2>"
        '<p class="note">Correlation of each head’s attention on the audio with right answers, '
        f"over the calibration items.</p>{figure_html(figure, 'heads')}</section>"
    )
