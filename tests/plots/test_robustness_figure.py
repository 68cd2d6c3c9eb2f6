"""The figure of noise and attacks: panels, lines, intervals, and what it refuses."""

import math

import pandas as pd
import pytest

from lens_audio.plots import robustness_curve
from lens_audio.plots.robustness import PANELS


def table(kinds=("white noise", "attack on the score")) -> pd.DataFrame:
    places = [
        ("unperturbed", math.inf),
        *((kind, level) for kind in kinds for level in (0, 40, 20)),
    ]
    rows = []
    for number, (what, level) in enumerate(places):
        row = {"what": what, "level_db": float(level)}
        for place, name in enumerate(PANELS):
            value = (number + place) / 20
            row |= {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.02}
        rows.append(row)
    return pd.DataFrame(rows)


def test_there_is_a_panel_for_the_score_and_for_either_share() -> None:
    figure = robustness_curve(table())
    assert [note.text for note in figure.layout.annotations] == list(PANELS.values())
    assert figure.layout.xaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text == "dB below the signal"


def test_a_line_goes_from_the_faintest_to_the_loudest_with_its_interval_behind() -> None:
    band, line = robustness_curve(table()).data[:2]
    assert list(line.x) == [40.0, 20.0, 0.0]
    assert list(line.y) == pytest.approx([0.1, 0.15, 0.05])
    assert list(band.x) == [40.0, 20.0, 0.0, 0.0, 20.0, 40.0]
    assert list(band.y) == pytest.approx([0.12, 0.17, 0.07, 0.04, 0.14, 0.09])
    assert line.customdata[0] == "0.10 [0.09, 0.12]"


def test_each_kind_stands_once_in_the_legend_and_what_is_unperturbed_is_a_dotted_line() -> None:
    figure = robustness_curve(table())
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["white noise", "attack on the score"]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.0, 0.05, 0.1]
    assert {shape.line.dash for shape in figure.layout.shapes} == {"dot"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (table().drop(columns="kept_low"), "no column kept_low"),
        (table().iloc[:1], "finite level"),
        (table(kinds=tuple("abcdefg")), "at most 6"),
    ],
)
def test_a_table_that_cannot_be_drawn_is_refused(wrong, said) -> None:
    with pytest.raises(ValueError, match=said):
        robustness_curve(wrong)
