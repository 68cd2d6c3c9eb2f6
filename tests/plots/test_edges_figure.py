"""The graph of all kinds of edges."""

import itertools

import pytest
import torch

from lens_audio.analysis.circuits import Graph, Nodes
from lens_audio.plots import edge_graph
from lens_audio.plots.edges import drawn_nodes, head_of
from lens_audio.plots.save import for_paper
from lens_audio.plots.theme import BLUE, ORANGE

NODES = Nodes(n_layers=2, n_heads=2, kv_heads=2)
EDGES = {
    ("embed", "L0H1", "q"): -0.1,
    ("embed", "L1KV0", "k"): 0.4,
    ("L0H1", "MLP0", "resid"): -0.2,
    ("MLP0", "logits", "resid"): -0.8,
}


def graph_of(edges, nodes=NODES):
    """Only these edges have a score and are kept."""
    scores = torch.zeros(nodes.is_edge.shape)
    numbers = {(receiver.node, receiver.input): j for j, receiver in enumerate(nodes.receivers)}
    for (sender, node, input), score in edges.items():
        scores[nodes.senders.index(sender), numbers[node, input]] = score
    return Graph(nodes, scores, scores != 0)


def lines(figure):
    """Colour and width of each edge's line by the hover text that goes with it."""
    traces = [trace for trace in figure.data if trace.meta and "edge" in trace.meta]
    pairs = zip(traces[::2], traces[1::2], strict=True)
    return {
        handle.hovertemplate.removesuffix("<extra></extra>"): (line.line.color, line.line.width)
        for line, handle in pairs
    }


def nodes_of(figure):
    return next(trace for trace in figure.data if trace.mode == "markers+text")


def test_an_edge_tells_its_sender_receiver_input_and_score():
    assert set(lines(edge_graph(graph_of(EDGES)))) == {
        "embed → L0H1, its query<br>score -0.1",
        "embed → L1KV0, its key<br>score +0.4",
        "L0H1 → MLP0, its residual stream<br>score -0.2",
        "MLP0 → logits, its residual stream<br>score -0.8",
    }


def test_thickness_is_the_size_of_the_score_and_colour_its_sign():
    found = sorted(lines(edge_graph(graph_of(EDGES))).values(), key=lambda look: look[1])
    assert [colour for colour, _ in found] == [ORANGE, ORANGE, BLUE, ORANGE]
    assert len({width for _, width in found}) == 4


def test_what_comes_later_stands_higher():
    found = nodes_of(edge_graph(graph_of(EDGES)))
    height = dict(zip(found.customdata, found.y, strict=True))
    assert height["L0H1"] < height["MLP0"] < height["L1H0"]


def test_names_are_written_on_opaque_nodes_above_all_lines():
    figure = edge_graph(graph_of(EDGES))
    found = nodes_of(figure)
    above = [trace for trace in figure.data[figure.data.index(found) + 1 :] if trace.x[0]]
    assert above == []
    assert found.marker.opacity == 1
    assert not any("rgba" in colour for colour in found.marker.color)


def test_a_shared_key_value_head_is_a_node_below_the_heads_that_read_it():
    nodes = Nodes(n_layers=2, n_heads=4, kv_heads=2)
    edges = {
        ("embed", "L1KV1", "v"): -0.5,
        ("embed", "L1H2", "q"): -0.5,
        ("L1H0", "logits", "resid"): -0.3,
        ("L1H2", "logits", "resid"): -0.4,
    }
    figure = edge_graph(graph_of(edges, nodes))
    found = nodes_of(figure)
    height = dict(zip(found.customdata, found.y, strict=True))
    assert height["L1KV1"] < height["L1H2"]
    links = [trace.meta["link"] for trace in figure.data if trace.meta and "link" in trace.meta]
    assert links == [["L1KV1", "L1H2"]]


def test_nodes_by_group_of_positions_stand_apart():
    nodes = Nodes(n_layers=1, n_heads=1, kv_heads=1, groups=("audio", "text", "last"))
    edges = {
        ("embed @audio", "L0KV0 @audio", "v"): -0.5,
        ("L0H0 @last", "logits @last", "resid"): -1.0,
    }
    found = nodes_of(edge_graph(graph_of(edges, nodes)))
    assert list(found.customdata) == ["L0H0 @audio", "L0H0 @last"]
    assert len(set(found.x)) == 2


def test_the_encoders_edges_lead_from_the_frames_to_the_audio():
    nodes = Nodes(n_layers=1, n_heads=2, kv_heads=2, part="encoder")
    edges = {("frames", "L0H1", "q"): -0.5, ("L0H1", "audio", "resid"): -1.0}
    labels = edge_graph(graph_of(edges, nodes)).layout.yaxis.ticktext
    assert labels == ("frames", "layer 0", "audio")


def test_a_single_edge_from_the_embeddings_to_the_logits_has_no_nodes():
    figure = edge_graph(graph_of({("embed", "logits", "resid"): -1.0}))
    assert list(lines(figure)) == ["embed → logits, its residual stream<br>score -1"]
    assert list(nodes_of(figure).customdata) == []


def test_many_heads_of_a_layer_do_not_stand_on_one_another():
    nodes = Nodes(n_layers=1, n_heads=30, kv_heads=30)
    edges = {(f"L0H{head}", "logits", "resid"): -1.0 for head in range(30)}
    found = nodes_of(edge_graph(graph_of(edges, nodes)))
    assert len(set(found.x)) == 30
    rows = {height: sorted(x for x, y in zip(found.x, found.y, strict=True) if y == height)
            for height in found.y}  # fmt: skip
    assert all(b - a > 0.15 for row in rows.values() for a, b in itertools.pairwise(row))


def test_a_file_for_paper_has_every_line_and_nothing_transparent():
    figure = for_paper(edge_graph(graph_of(EDGES)))
    kept = [trace for trace in figure.data if trace.meta and "edge" in trace.meta]
    assert [trace.mode for trace in kept] == ["lines"] * len(EDGES)
    assert "rgba" not in figure.to_json()


def test_no_edges_and_too_many_are_refused():
    with pytest.raises(ValueError, match="keeps no edges"):
        edge_graph(graph_of({}))
    large = Nodes(n_layers=4, n_heads=16, kv_heads=16)
    every = Graph(large, torch.ones(large.is_edge.shape), large.is_edge)
    with pytest.raises(ValueError, match="at most 500"):
        edge_graph(every)


def test_only_the_chosen_node_has_a_rim_of_its_own():
    widths = nodes_of(edge_graph(graph_of(EDGES), chosen="MLP0")).marker.line.width
    nodes = drawn_nodes(graph_of(EDGES))
    assert nodes == ["L0H1", "MLP0", "L1H0"]
    assert widths[1] > widths[0] == widths[2]


def test_a_head_is_told_from_other_nodes():
    assert head_of("L3H12 @audio") == (3, 12)
    with pytest.raises(ValueError, match="is no head"):
        head_of("L3KV1")
