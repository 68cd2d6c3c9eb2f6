"""The graph of a circuit."""

import pandas as pd
import pytest
import torch

from lens_audio.plots import circuit_graph
from lens_audio.plots.theme import BLUE, ORANGE

COLUMNS = ["sender", "receiver", "input", "recovery"]
EDGES = pd.DataFrame(
    [
        ((0, 1), (2, 3), "q", 0.4),
        ((0, 2), (2, 3), "k", -0.2),
        ((0, 1), "logits", "resid", 0.01),
        ((0, 2), "logits", "resid", 0.0),
        ((2, 3), "logits", "resid", 0.8),
    ],
    columns=COLUMNS,
)
ATTENTION = torch.linspace(0, 1, 12).view(3, 4)


def drawn(figure):
    """Widths of the edges' lines by their hover text, and their colours."""
    handles = [i for i, trace in enumerate(figure.data) if "recovery" in str(trace.hovertemplate)]
    lines = [(figure.data[i].hovertemplate, figure.data[i - 1].line) for i in handles]
    return {text.split("<br>")[0]: (line.width, line.color) for text, line in lines}


def nodes(figure):
    return next(trace for trace in figure.data if trace.mode == "markers+text")


def test_every_edge_of_enough_recovery_is_drawn():
    assert set(drawn(circuit_graph(EDGES))) == {
        "L0H1 → L2H3, through its query",
        "L0H2 → L2H3, through its key",
        "L2H3 → the logits, through its residual stream",
    }


def test_least_zero_draws_all():
    assert len(drawn(circuit_graph(EDGES, least=0))) == len(EDGES)


def test_width_grows_with_the_size_and_colour_tells_the_sign():
    (thin, blue), (middle, orange), (thick, _) = sorted(drawn(circuit_graph(EDGES)).values())
    assert thin < middle < thick
    assert (blue, orange) == (BLUE, ORANGE)


def test_heads_are_named_and_later_layers_stand_higher():
    found = nodes(circuit_graph(EDGES))
    heights = {name: y for name, y in zip(found.text, found.y, strict=True)}
    assert [name.strip(" </b>") for name in heights] == ["L0H1", "L0H2", "L2H3"]
    assert found.y[0] == found.y[1] < found.y[2]


def test_a_head_is_named_on_itself_where_no_line_crosses_the_name():
    figure = circuit_graph(EDGES, ATTENTION)
    found = nodes(figure)
    assert found.textposition == "middle center"
    assert found.marker.size > 7 * 4  # wider than the letters of "L0H1"
    lines = [i for i, trace in enumerate(figure.data) if trace.mode == "lines" and trace.x[0]]
    drawn_last = figure.data.index(found)
    assert all(i < drawn_last for i in lines if figure.data[i].opacity == 0.85)


def test_attention_colours_the_heads():
    assert list(nodes(circuit_graph(EDGES, ATTENTION)).marker.color) == pytest.approx(
        [1 / 11, 2 / 11, 1.0]
    )


def test_other_values_colour_the_heads():
    values = {(0, 1): 3.0, (0, 2): 4.0, (2, 3): 5.0}
    found = nodes(circuit_graph(EDGES, ATTENTION, values=values, quantity="r < 1"))
    assert list(found.marker.color) == [3.0, 4.0, 5.0]
    assert found.marker.colorbar.title.text == "r &lt; 1"


def test_a_heads_hover_text_lists_what_it_hears_and_tells():
    texts = nodes(circuit_graph(EDGES, ATTENTION)).hovertext
    assert "hears L0H1 (q): +0.400" in texts[2]
    assert "tells the logits: +0.800" in texts[2]
    assert "audio mass 1.000" in texts[2]


def test_no_two_heads_stand_over_the_same_spot_of_the_audio():
    edges = pd.DataFrame([((l, 0), "logits", "resid", 1.0) for l in range(4)], columns=COLUMNS)
    assert len(set(nodes(circuit_graph(edges)).x)) == 4


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        (EDGES.drop(columns="input"), {}, "no column input"),
        (EDGES.iloc[:0], {}, "no edges"),
        (EDGES, {"least": -1}, "least=-1"),
        (EDGES, {"attention": torch.ones(2, 4)}, "L2H3"),
        (EDGES, {"values": {(0, 1): 1.0}}, "no value for L0H2, L2H3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(edges, options, message):
    with pytest.raises(ValueError, match=message):
        circuit_graph(edges, **options)
