"""Figures for a paper: of the width asked for, dark on white, nothing transparent."""

import json
import re
import sys

import kaleido
import numpy as np
import pandas as pd
import pytest

from lens_audio.plots import circuit_graph, head_map, save, score_distributions, steering_curve
from lens_audio.plots.save import for_paper
from lens_audio.plots.theme import COLOURS

# What a deuteranope sees of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1).
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)


def a_steering_curve():
    rows = [(m, b, 0.5, 0.4, 0.6, "all") for m in ("chosen", "random") for b in (0, 1)]
    columns = ["method", "beta", "accuracy", "low", "high", "condition"]
    return steering_curve(pd.DataFrame(rows, columns=columns))


def a_circuit():
    edges = [((0, 0), (1, 1), "q", 0.4), ((1, 1), "logits", "resid", -0.2)]
    table = pd.DataFrame(edges, columns=["sender", "receiver", "input", "recovery"])
    return circuit_graph(table, np.full((2, 2), 0.5))


def scores():
    return score_distributions({"many": np.linspace(0, 1, 9), "few": [0.2, 0.4]})


@pytest.fixture
def asked(monkeypatch):
    """What kaleido is asked for, which then draws nothing."""
    calls = []

    def draw(figure, options, kopts):
        calls.append(options | {"figure": figure, "page": kopts["page_generator"].generate_index()})
        return b"drawn"

    monkeypatch.setattr(kaleido, "calc_fig_sync", draw)
    return calls


@pytest.mark.parametrize("figure", [a_steering_curve, a_circuit, scores])
def test_a_figure_for_paper_has_nothing_transparent_and_dark_ink(figure):
    before = figure()
    kept = before.to_json()
    text = for_paper(before).to_json()
    assert "rgba" in kept
    assert "rgba" not in text
    assert '"opacity"' not in text
    assert "#808080" not in text
    assert json.loads(text)["layout"]["paper_bgcolor"] == "#ffffff"
    assert before.to_json() == kept


@pytest.mark.parametrize(
    ("width", "millimetres"), [("column", 89), ("page", 183), ("3.5 in", 88.9), ("120mm", 120)]
)
def test_a_file_is_as_wide_as_asked(tmp_path, asked, width, millimetres):
    for ending, dots_an_inch in (("svg", 96), ("PDF", 96), ("png", 600)):
        path = save(head_map(np.array([[0.1]])), tmp_path / f"x.{ending}", width=width)
        assert path.read_bytes() == b"drawn"
        size = asked[-1]
        inches = size["width"] * size["scale"] / dots_an_inch
        assert inches * 25.4 == pytest.approx(millimetres)


def test_a_pdf_has_no_margins_that_would_cut_the_figure(tmp_path, asked):
    save(head_map(np.array([[0.1]])), tmp_path / "x.pdf")
    style = asked[-1]["page"].index("@page { margin: 0 !important; }")
    assert style < asked[-1]["page"].index("</head>")


def test_a_height_is_as_asked(tmp_path, asked):
    save(scores(), tmp_path / "x.svg", height="50 mm")
    assert asked[-1]["height"] * asked[-1]["scale"] / 96 * 25.4 == pytest.approx(50)
    assert asked[-1]["figure"].layout.height == asked[-1]["height"]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("x.eps", {}, r"\.pdf, \.svg and \.png"),
        ("x.pdf", {"style": "poster"}, "'paper' and 'screen'"),
        ("x.pdf", {"width": "wide"}, "89 mm"),
        ("x.pdf", {"height": "0 mm"}, "height"),
    ],
)
def test_what_cannot_be_saved_is_said(tmp_path, asked, name, options, says):
    with pytest.raises(ValueError, match=says):
        save(head_map(np.array([[0.1]])), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    module = sys.modules["lens_audio.plots.save"]  # not the function of this name
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("lens_audio[notebook]")):
        save(head_map(np.array([[0.1]])), tmp_path / "x.pdf")

    def without_chrome(*_, **__):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(kaleido, "calc_fig_sync", without_chrome)
    with pytest.raises(RuntimeError, match="install one, or run plotly_get_chrome"):
        save(head_map(np.array([[0.1]])), tmp_path / "x.pdf")


def test_colours_of_the_first_five_series_differ_for_a_deuteranope():
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS[:5]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ DEUTERANOPIA.T).clip(0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert apart[np.triu_indices(5, 1)].min() > 0.1
