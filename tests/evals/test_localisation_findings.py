"""What a score card says of its table, and the page that shows it."""

import re

import pandas as pd
import pytest

from lens_audio.evals.localisation.findings import findings
from lens_audio.plots.localisation import localisation_scores
from lens_audio.plots.pages.score_localisation import (
    SCORE_HEADER,
    score_cells,
    score_localisation_page,
)
from lens_audio.testbed import Truth

NAN = float("nan")
PLANTED = Truth("planted", 4, 4, ((1, 0),), (), ((2, 2),), (3,), "by construction")
EMERGENT = Truth("emergent", 4, 4, ((1, 1),), ((2, 0),), (), (), "by knock-out on 60 items")


def table(*rows):
    """Rows of (checkpoint, method, auroc, auroc_low, auroc_high), and what else is given."""
    usual = {"condition": "conflict", "precision": 0.5, "precision_low": 0.25, "decoys": 0.0,
             "precision_high": 0.75, "k": 4, "n_pairs": 50, "forwards": 2, "heads": "L1H0",
             "edge_auroc": NAN, "edge_auroc_low": NAN, "edge_auroc_high": NAN}  # fmt: skip
    names = ("checkpoint", "method", "auroc", "auroc_low", "auroc_high")
    return pd.DataFrame(
        [usual | dict(zip(names, row[:5], strict=True)) | dict(*row[5:]) for row in rows]
    )


def test_a_method_whose_interval_is_high_on_every_data_set_is_named_first():
    found = table(
        ("planted", "knock-out", 1.0, 0.97, 1.0), ("planted", "mass", 1.0, 0.95, 1.0),
        ("graded", "knock-out", 0.95, 0.9, 1.0), ("graded", "mass", 0.95, 0.89, 1.0),
    )  # fmt: skip
    assert findings(found) == [
        "The readers are found on every data set by knock-out, with an AUROC whose interval begins "
        "at 0.9 or above."
    ]


def test_of_a_method_without_an_interval_the_value_counts():
    found = table(("planted", "own", 0.95, NAN, NAN), ("planted", "none", NAN, NAN, NAN))
    assert findings(found) == [
        "The readers are found on every data set by own, with an AUROC whose interval begins at 0.9 "
        "or above.",
        "On planted (conflict) no head gets a score by none.",
    ]


def test_methods_no_better_than_chance_are_named_with_their_interval():
    found = table(("emergent", "correlation", 0.52, 0.4, 0.64), ("emergent", "mass", 0.7, 0.6, 0.8))
    assert findings(found) == [
        "No method finds the readers on every data set, with an AUROC whose interval begins at 0.9 "
        "or above.",
        "On emergent (conflict) no better than chance, by AUROC: correlation (0.52 [0.40, 0.64]).",
    ]


def test_a_fooled_method_does_not_find_the_readers_however_high_its_auroc():
    found = table(
        ("planted", "knock-out", 1.0, 0.97, 1.0),
        ("planted", "mean mass", 0.93, 0.91, 0.95, {"decoys": 1.0, "precision": 0.0}),
    )
    first, fooled = findings(found)
    assert first.startswith("The readers are found on every data set by knock-out, with")
    assert "fooled by decoys, among the first 4 heads: mean mass" in fooled


def test_a_method_with_more_decoys_than_readers_in_front_is_fooled():
    found = table(
        ("planted", "mean mass", 0.8, 0.7, 0.9, {"decoys": 0.75, "precision": 0.25}),
        ("planted", "other", 0.8, 0.7, 0.9, {"decoys": 0.25, "precision": 0.75}),
    )
    assert findings(found)[1:] == [
        "On planted (conflict) fooled by decoys, among the first 4 heads: mean mass (75% decoys, 25% "
        "readers)."
    ]


@pytest.mark.parametrize(
    ("low", "said"),
    [
        (
            0.92,
            "the readers' keys and values are found on every data set by EAP, by the same measure",
        ),
        (
            0.88,
            "Edge by edge, no method finds those from the audio into the readers' keys and values",
        ),
    ],
)
def test_methods_that_score_edges_are_judged_edge_by_edge_too(low, said):
    edges = {"edge_auroc": 0.97, "edge_auroc_low": low, "edge_auroc_high": 1.0}
    found = table(("planted", "EAP", 0.6, 0.55, 0.7, edges), ("planted", "mass", 1.0, 0.95, 1.0))
    assert said in findings(found)[1]


@pytest.mark.parametrize(
    ("plain", "floored", "alone", "works"),
    [(0.55, 0.95, 0.94, True), (0.55, 0.95, 0.6, False), (0.95, 0.94, 0.96, False)],
)
def test_the_floor_does_the_work_where_it_alone_has_most_of_its_gain(plain, floored, alone, works):
    values = {"correlation": plain, "correlation above a floor": floored, "floor of mass": alone}
    found = table(*(("emergent", name, value, 0.51, 1.0) for name, value in values.items()))
    said = [
        f"On emergent (conflict) the floor does the work: correlation has an AUROC of {plain:.2f}, "
        f"with a floor of 0.02 of mean mass {floored:.2f}, and the floor alone {alone:.2f}."
    ]
    assert findings(found)[1:] == said * works


def test_the_page_says_what_was_planted_and_what_emerged_and_how_either_is_known():
    found = table(("planted", "own", 0.95, NAN, NAN), ("emergent", "own", 0.7, 0.6, 0.8))
    page = score_localisation_page(found, (PLANTED, EMERGENT), findings(found), "lens-audio <x>")
    said = re.sub(r"<[^>]+>", " ", page)
    assert "planted: readers L1H0; decoys L2H2. Known by construction. Planted: finding" in said
    assert "validates the tool, and is no evidence for the paper" in said
    assert "emergent: readers L1H1; backups L2H0. Known by knock-out on 60 items. They" in said
    assert "is evidence about small models only" in said
    assert said.count("are no independent check") == 1  # of the one known by knock-out
    assert "lens-audio &lt;x&gt;" in page


def test_the_page_has_the_edges_of_methods_that_score_them_and_no_others():
    edges = {"edge_auroc": 0.97, "edge_auroc_low": 0.9, "edge_auroc_high": 1.0}
    found = table(("planted", "EAP", 0.6, 0.5, 0.7, edges), ("planted", "mass", 0.6, 0.5, 0.7))
    with_edges, without = (score_cells(row) for row in found.to_dict("records"))
    place = SCORE_HEADER.index("AUROC of edges [95 %]")
    assert (with_edges[place], without[place]) == ("0.97 [0.90, 1.00]", "")


def test_a_figure_has_a_panel_a_checkpoint_and_no_interval_that_is_not_known():
    found = table(("planted", "own", 0.95, NAN, NAN), ("emergent", "own", 0.7, 0.6, 0.8))
    figure = localisation_scores(found)
    auroc = {trace.xaxis: trace for trace in figure.data if trace.name == "AUROC"}
    assert [text.text for text in figure.layout.annotations] == ["planted", "emergent"]
    assert auroc["x"].customdata[0] == "own, planted<br>AUROC 0.95"
    assert auroc["x2"].customdata[0] == "own, emergent<br>AUROC 0.70 [0.60, 0.80]"
    assert auroc["x2"].error_x.arrayminus[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="auroc_low"), "the table has no column auroc_low"),
        (lambda table: pd.concat([table, table]), "give a row for each checkpoint and method"),
        (lambda table: table[:0], "give a row for each checkpoint and method"),
    ],
)
def test_another_table_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        localisation_scores(change(table(("planted", "own", 0.95, 0.9, 1.0))))
