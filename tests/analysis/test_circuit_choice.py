"""Which edges of a graph are kept, worked by hand on a model of one head and one MLP."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.analysis.circuits import Graph, Nodes
from lens_audio.analysis.circuits.prune import influence

SMALL = Nodes(n_layers=1, n_heads=1, kv_heads=1)
# Into the head's q, k and v, the MLP and the logits; from embed, the head and the MLP.
SCORES = torch.tensor([[1.0, -1, 2, -3, 1], [0, 0, 0, 1, -2], [0, 0, 0, 0, 1]])
GRAPH = Graph(SMALL, SCORES, SMALL.is_edge)


def named(graph: Graph) -> set[tuple[str, str]]:
    table = graph.to_dataframe()
    inputs = table["receiver"] + table["input"].map(
        lambda name: f" {name}" if len(name) == 1 else ""
    )
    return set(zip(table["sender"], inputs, strict=True))


def test_top_keeps_the_largest_by_size():
    largest = {("embed", "MLP0"), ("embed", "L0KV0 v"), ("L0H0", "logits")}
    assert named(GRAPH.top(3)) == largest


def test_greedy_opens_a_nodes_inputs_only_when_an_edge_leads_on_from_it():
    assert named(GRAPH.greedy(1)) == {("L0H0", "logits")}
    assert named(GRAPH.greedy(2)) == {("L0H0", "logits"), ("embed", "L0KV0 v")}
    assert ("embed", "MLP0") in named(GRAPH.greedy(7))


@settings(max_examples=20)
@given(n=st.integers(0, 20), seed=st.integers(0, 9))
def test_every_greedy_edge_lies_on_a_way_to_the_logits(n, seed):
    nodes = Nodes(2, 4, 2)
    scores = torch.randn(nodes.is_edge.shape, generator=torch.Generator().manual_seed(seed))
    graph = Graph(nodes, scores * nodes.is_edge, nodes.is_edge).greedy(n)
    assert len(graph) == n
    sends = {nodes.senders[i] for i in graph.kept.any(1).nonzero().flatten().tolist()} | {"logits"}
    for column in graph.kept.any(0).nonzero().flatten().tolist():
        assert any(column in nodes.inputs_of[node] for node in sends)


def test_greedy_keeps_fewer_where_no_more_lead_to_the_logits():
    kept = SMALL.is_edge.clone()
    kept[1:, 4] = False  # only embed tells the logits
    assert named(GRAPH.with_kept(kept).greedy(4)) == {("embed", "logits")}


def test_influence_flows_from_the_logits_in_proportion_to_sizes():
    expected = torch.tensor(
        [
            [0.140625, 0.140625, 0.28125, 0.1875, 0.25],
            [0, 0, 0, 0.0625, 0.5],
            [0, 0, 0, 0, 0.25],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(influence(SMALL, SCORES), expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 99), groups=st.sampled_from([(), ("audio", "text", "last")]))
def test_all_influence_begins_at_the_embeddings(seed, groups):
    nodes = Nodes(2, 4, 2, groups)
    scores = torch.randn(nodes.is_edge.shape, generator=torch.Generator().manual_seed(seed))
    of_embed = influence(nodes, scores * nodes.is_edge)[: max(1, len(groups))]
    assert float(of_embed.sum()) == pytest.approx(1.0)


def test_the_fewest_edges_have_the_share_of_influence():
    # In order 0.5, 0.28, 0.25, 0.25, 0.19, 0.14, 0.14, 0.06 of 1.8125 in all.
    assert named(GRAPH.by_influence(0.27)) == {("L0H0", "logits")}
    assert named(GRAPH.by_influence(0.4)) == {("L0H0", "logits"), ("embed", "L0KV0 v")}
    assert len(GRAPH.by_influence(0)) == 0
    assert len(GRAPH.by_influence(1)) == 8


def test_a_choice_is_among_the_edges_that_are_kept():
    some = GRAPH.top(5)
    assert named(some.top(2)) < named(some)
    assert named(some.by_influence(1)) <= named(some)


@pytest.mark.parametrize("choose", ["top", "greedy"])
@pytest.mark.parametrize("n", [-1, 9])
def test_a_number_of_edges_that_there_are_not_is_refused(choose, n):
    with pytest.raises(ValueError, match=f"{n} edges of a graph that has 8"):
        getattr(GRAPH, choose)(n)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_beyond_all_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        GRAPH.by_influence(share)


def test_to_keep_what_is_no_edge_is_refused():
    with pytest.raises(ValueError, match="from an earlier node to a later one"):
        GRAPH.with_kept(torch.ones_like(SMALL.is_edge))
