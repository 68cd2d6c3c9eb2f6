"""Circuits against runs with plain hooks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import hooks
from lens_audio.analysis.circuit import Circuit, CircuitTest, circuit_edges
from lens_audio.analysis.circuits import circuit_metric, edges
from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.sites import head_name

SIZES = Sizes(n_layers=3)
MODEL = hooked_model(SIZES)
LAYOUT = Layout([6, 8], [[23], [23]])  # the shorter row is padded
CLEAN, CORRUPTED = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
METRIC = logit_diff([7, 9], [20, 21])
TEST = CircuitTest(MODEL, CLEAN, CORRUPTED, METRIC)
EVERY = [(layer, head) for layer in range(SIZES.n_layers) for head in range(SIZES.n_heads)]
circuits = st.sets(st.sampled_from(EVERY)).map(Circuit.of)


def by_hooks(corrupted_heads):
    """The metric when these heads' z are the corrupted run's."""
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(CORRUPTED)
        patches = hooks.patch("z", heads=corrupted_heads, source=cache) if corrupted_heads else []
        return METRIC(MODEL.run_with_hooks(CLEAN, fwd_hooks=patches)[:, -1])


@settings(max_examples=20, deadline=None)
@given(circuit=circuits)
def test_only_the_circuit_is_clean(circuit):
    others = [head for head in EVERY if head not in circuit]
    torch.testing.assert_close(TEST.only(circuit).metric, by_hooks(others), atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(circuit=circuits)
def test_without_the_circuit_the_others_are_clean(circuit):
    expected = by_hooks(list(circuit.heads))
    torch.testing.assert_close(TEST.without(circuit).metric, expected, atol=1e-5, rtol=0)


MLPS = [f"MLP{layer}" for layer in range(SIZES.n_layers)]
NODES = ["embed", *(head_name(*head) for head in EVERY), *MLPS]
CACHE = MODEL.run_with_cache(CORRUPTED)[1]


def with_corrupted(nodes):
    """The metric when these nodes write as in the corrupted run, by plain hooks."""
    hooks_of = {"embed": ("hook_embed", slice(None))}
    hooks_of |= {f"MLP{layer}": (f"blocks.{layer}.hook_mlp_out", slice(None)) for layer in range(3)}
    hooks_of |= {
        head_name(l, h): (f"blocks.{l}.attn.hook_z", (..., h, slice(None))) for l, h in EVERY
    }

    def patch(name, part):
        def put_in(written, hook):
            written[part] = CACHE[name][part]

        return name, put_in

    with torch.no_grad():
        fwd_hooks = [patch(*hooks_of[node]) for node in sorted(nodes)]
        return METRIC(MODEL.run_with_hooks(CLEAN, fwd_hooks=fwd_hooks)[:, -1])


@settings(max_examples=8, deadline=None)
@given(kept=st.sets(st.sampled_from(NODES)))
def test_only_some_nodes_are_clean(kept):
    expected = with_corrupted({*NODES} - kept)
    torch.testing.assert_close(TEST.only(nodes=kept).metric, expected, atol=1e-5, rtol=0)


def test_without_some_nodes_the_others_are_clean():
    some = {"MLP0", "L1H2", "L2H0"}
    found = TEST.without(nodes=some).metric
    torch.testing.assert_close(found, with_corrupted(some), atol=1e-5, rtol=0)


def test_heads_beside_the_embeddings_and_mlps_are_a_circuit_of_heads():
    circuit = Circuit.of([(0, 1), (1, 3), (2, 0)])
    found = TEST.only(nodes=["embed", *MLPS, *map(head_name, *zip(*circuit.heads, strict=True))])
    torch.testing.assert_close(found.metric, TEST.only(circuit).metric, atol=1e-5, rtol=0)


def test_without_edges_into_the_logits_these_alone_bring_what_was_corrupted():
    heads = [(0, 2), (2, 1)]
    with torch.no_grad():
        caches = [MODEL.run_with_cache(prompt)[1] for prompt in (CLEAN, CORRUPTED)]
        moved = sum(
            (corrupted - clean)[:, :, head] @ MODEL.blocks[layer].attn.W_O[head]
            for layer, head in heads
            for clean, corrupted in [[c[f"blocks.{layer}.attn.hook_z"] for c in caches]]
        )
        add = [("blocks.2.hook_resid_post", lambda resid, hook: resid + moved)]
        expected = METRIC(MODEL.run_with_hooks(CLEAN, fwd_hooks=add)[:, -1])
    edges = [(head_name(*head), "logits") for head in heads]
    torch.testing.assert_close(TEST.without(edges=edges).metric, expected, atol=1e-5, rtol=0)


def test_a_graph_is_run_by_the_edges_that_it_keeps():
    graph = edges(MODEL, (CLEAN, CORRUPTED), METRIC).top(150)
    names = graph.to_dataframe()[["sender", "receiver", "input"]].to_numpy().tolist()
    found = TEST.only(graph)
    assert torch.equal(found.metric, circuit_metric(MODEL, TEST.pair, graph, METRIC).metric)
    assert torch.equal(found.metric, TEST.only(edges=names).metric)


def test_no_edge_is_the_corrupted_run_and_all_are_the_model():
    none, whole = TEST.only(edges=[]), TEST.without(edges=[])
    assert (none.faithfulness, whole.faithfulness) == pytest.approx((0, 1), abs=1e-5)
    with torch.no_grad():
        expected = METRIC(MODEL(CORRUPTED)[:, -1])
    torch.testing.assert_close(none.metric, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "one of them"),
        ({"circuit": [(0, 1)], "nodes": ["embed"]}, "one of them"),
        ({"nodes": ["L0H9"]}, r"no sender \['L0H9'\]; there are embed, L0H0"),
        ({"edges": [("L1H0", "L0H0", "q")]}, "L1H0 is not earlier than L0H0 q"),
        ({"edges": ["embed"]}, r"an edge is \(sender, receiver, input\), not 'embed'"),
    ],
)
def test_nodes_and_edges_that_are_none_are_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        TEST.only(**asked)


def test_many_circuits_in_small_batches_are_the_same():
    small = CircuitTest(MODEL, CLEAN, CORRUPTED, METRIC, batch_tokens=1)
    torch.testing.assert_close(small.random(5, n=7), TEST.random(5, n=7), atol=1e-4, rtol=0)


def test_all_heads_are_faithful_and_no_head_is_not():
    assert TEST.only(EVERY).faithfulness == pytest.approx(1.0, abs=1e-5)
    assert TEST.only([]).faithfulness == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("keep", [True, False])
def test_the_hooks_do_what_the_test_measures(keep):
    circuit = Circuit.of([(0, 1), (2, 3)])
    fwd_hooks = TEST.corrupting(circuit, keep=keep)
    with torch.no_grad():
        metric = METRIC(MODEL.run_with_hooks(CLEAN, fwd_hooks=fwd_hooks)[:, -1])
    measured = (TEST.only if keep else TEST.without)(circuit).metric
    torch.testing.assert_close(measured, metric, atol=1e-5, rtol=0)


def test_nothing_to_corrupt_gives_no_hooks():
    assert TEST.corrupting(EVERY, keep=True) == []
    assert TEST.corrupting([], keep=False) == []


def test_random_circuits_have_their_size():
    seen = []
    test = CircuitTest(MODEL, CLEAN, CORRUPTED, METRIC)
    test._metrics = lambda kept: seen.append(kept) or torch.zeros(len(kept), 2)
    test.random(5, n=9)
    assert seen[0].flatten(1).sum(1).tolist() == [5] * 9


def test_pruning_keeps_the_faithfulness_asked_for():
    circuit, steps = TEST.prune(EVERY, least=0.9)
    assert TEST.only(circuit).faithfulness >= 0.9
    assert len(circuit) == len(EVERY) - len(steps)


def test_pruning_stops_only_where_every_further_head_is_needed():
    circuit, _ = TEST.prune(EVERY, least=0.9)
    assert all(TEST.only(circuit.removed(head)).faithfulness < 0.9 for head in circuit.heads)


def test_a_circuit_too_weak_to_prune_is_refused():
    with pytest.raises(ValueError, match="begin with more heads"):
        TEST.prune([], least=0.9)


def test_json_and_code_make_the_circuit_again(tmp_path):
    circuit = Circuit.of([(2, 1), (0, 3), (2, 1)])
    circuit.to_json(tmp_path / "circuit.json", model="tiny")
    assert Circuit.from_json(tmp_path / "circuit.json") == circuit
    assert Circuit.from_json(circuit.to_json()) == circuit
    import lens_audio as la

    assert eval(circuit.to_code(), {"la": la}) == circuit


@pytest.mark.parametrize("text", ["{}", "{", '{"heads": 3}', '{"heads": [[1]]}'])
def test_json_that_is_no_circuit_is_refused(text):
    with pytest.raises(ValueError, match=r"circuit|pairs"):
        Circuit.from_json(text)


@pytest.mark.parametrize("heads", [(2, 7), [(1.7, 2)], [(-1, 0)], [(1, 2, 3)], 5])
def test_what_is_no_pair_of_numbers_is_refused(heads):
    with pytest.raises(ValueError, match=r"heads are|counted from 0"):
        Circuit.of(heads)


def test_a_head_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="3 layers x 4 heads"):
        TEST.only([(3, 0)])


def test_edges_are_those_of_path_patching():
    circuit = Circuit.of([(0, 1), (1, 3), (2, 0)])
    edges = circuit_edges(MODEL, CLEAN, CORRUPTED, circuit, METRIC)
    found = edges.set_index(["sender", "receiver", "input"]).recovery
    expected = path_patch(MODEL, CLEAN, CORRUPTED, METRIC, senders=[(0, 1), (1, 3)],
                          receivers=[(2, 0)], receiver_input="v", verbose=False)  # fmt: skip
    assert found[(0, 1), (2, 0), "v"] == pytest.approx(float(expected.recovery()[0]))
    assert len(edges) == 3 * (1 + 2) + 3


def test_no_hook_is_left_on_the_model():
    assert all(not point.fwd_hooks for point in MODEL.hook_points())
