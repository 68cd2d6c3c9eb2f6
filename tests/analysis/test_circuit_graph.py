"""The matrix of edges: its names, which edges there are, and its files."""

from dataclasses import replace

import pytest
import torch

from lens_audio.analysis.circuits import Graph, Nodes

NODES = Nodes(n_layers=2, n_heads=4, kv_heads=2)


SPLIT = replace(NODES, groups=("audio", "text", "last"))


def graph(dtype=torch.float32, nodes=NODES, **options) -> Graph:
    """Random scores, of which the largest are kept."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(nodes.is_edge.shape, generator=generator, dtype=dtype) * nodes.is_edge
    kept = nodes.is_edge & (scores > 0.5)
    return Graph(
        nodes, scores, kept, {"model": "m", "method": "eap", "versions": {"torch": "2"}}, **options
    )


def test_nodes_are_named_in_the_order_of_the_forward():
    assert NODES.senders[:7] == ("embed", "L0H0", "L0H1", "L0H2", "L0H3", "MLP0", "L1H0")
    assert [str(receiver) for receiver in NODES.receivers[3:11]] == [
        "L0H3 q", "L0KV0 k", "L0KV1 k", "L0KV0 v", "L0KV1 v", "MLP0", "L1H0 q", "L1H1 q",
    ]  # fmt: skip
    assert str(NODES.receivers[-1]) == "logits"


@pytest.mark.parametrize(
    ("sender", "receiver", "is_edge"),
    [
        ("embed", ("L0H0", "q"), True),
        ("L0H1", ("L0H0", "q"), False),
        ("L0H1", ("L0KV0", "k"), False),
        ("L0H1", ("MLP0", "resid"), True),
        ("MLP0", ("MLP0", "resid"), False),
        ("MLP0", ("L1KV1", "v"), True),
        ("L1H3", ("L1KV1", "v"), False),
        ("MLP1", ("logits", "resid"), True),
    ],
)
def test_edges_lead_from_earlier_nodes_to_later_ones(sender, receiver, is_edge):
    found = NODES.is_edge[NODES.senders.index(sender), NODES.receivers.index(receiver)]
    assert bool(found) == is_edge


def test_a_head_reads_with_its_query_and_with_the_keys_and_values_it_shares():
    read = [str(NODES.receivers[i]) for i in NODES.inputs_of["L1H3"]]
    assert read == ["L1H3 q", "L1KV1 k", "L1KV1 v"]


def test_split_by_position_a_node_is_one_for_each_group_and_edges_stay_in_theirs():
    split = SPLIT
    assert split.senders[:4] == ("embed @audio", "embed @text", "embed @last", "L0H0 @audio")
    sender = split.senders.index("MLP0 @text")
    reached = [str(split.receivers[i]) for i in split.is_edge[sender].nonzero().flatten()]
    assert reached[:2] == ["L1H0 @text q", "L1H1 @text q"]
    assert all("@text" in name for name in reached)
    assert split.is_edge.sum() == 3 * NODES.is_edge.sum()


def test_split_by_position_a_head_reads_keys_of_every_group_it_may_attend_to():
    split = SPLIT
    reads = {
        name: [str(split.receivers[i]) for i in split.inputs_of[name]] for name in split.inputs_of
    }
    assert reads["L0H3 @audio"] == [
        "L0H3 @audio q", "L0KV1 @audio k", "L0KV1 @audio v", "L0KV1 @text k", "L0KV1 @text v",
    ]  # fmt: skip
    assert "L0KV1 @last k" in reads["L0H3 @last"]
    assert reads["logits"] == ["logits @audio", "logits @text", "logits @last"]


def test_to_split_a_matrix_and_join_it_again_changes_nothing():
    split = SPLIT
    scores = torch.randn(2, *split.is_edge.shape) * split.is_edge
    assert torch.equal(split.joined(split.split(scores)), scores)


def test_the_table_has_a_row_an_edge_that_is_kept():
    one = graph()
    table = one.to_dataframe()
    assert list(table.columns) == ["sender", "receiver", "input", "score"]
    assert len(table) == len(one) == int(one.kept.sum())
    assert table["score"].abs().is_monotonic_decreasing
    first = table.iloc[0]
    assert one.score(first["sender"], first["receiver"], first["input"]) == first["score"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ending", ["json", "safetensors"])
@pytest.mark.parametrize("nodes", [NODES, SPLIT], ids=["whole", "split"])
def test_what_is_saved_is_what_is_loaded(tmp_path, ending, dtype, nodes):
    one = graph(dtype, nodes)
    again = Graph.load(one.save(tmp_path / f"edges.{ending}"))
    assert again.nodes == one.nodes
    assert again.about == one.about
    assert torch.equal(again.scores, one.scores)
    assert torch.equal(again.kept, one.kept)


def test_scores_by_example_are_saved_as_safetensors(tmp_path):
    by_example = torch.randn(3, *NODES.is_edge.shape)
    one = graph(by_example=by_example)
    again = Graph.load(one.save(tmp_path / "edges.safetensors"))
    assert torch.equal(again.by_example, by_example)


def test_the_same_edges_give_the_same_file(tmp_path):
    """safetensors writes its metadata in an order that changes from file to file."""
    for number in range(8):
        graph().save(tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.json or \.safetensors"):
        graph().save(tmp_path / "edges.pt")


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_another_file_is_refused(tmp_path, ending):
    path = tmp_path / f"edges.{ending}"
    with pytest.raises(FileNotFoundError):
        Graph.load(path)
    path.write_text('{"kind": "circuit"}')
    with pytest.raises(ValueError, match="holds no saved edges"):
        Graph.load(path)


def test_no_edge_has_no_score():
    with pytest.raises(ValueError, match="MLP1 is not earlier than L0H0 q"):
        graph().score("MLP1", "L0H0", "q")
    with pytest.raises(ValueError, match="no edge from 'L0H9'"):
        graph().score("L0H9", "MLP1")
