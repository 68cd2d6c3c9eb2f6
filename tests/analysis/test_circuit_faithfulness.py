"""Runs of a circuit against exact patching and plain hooks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import Layout, Sizes, hf_model, make_prompt
from torch import Tensor

from lens_audio import HookedAudioTransformer
from lens_audio.analysis import circuits
from lens_audio.analysis.circuits import Graph, Nodes, circuit_metric, faithfulness_curve
from lens_audio.analysis.metrics import logit_diff
from lens_audio.data import Pair

SIZES = Sizes(n_layers=2)
MODEL = HookedAudioTransformer.from_hf(hf_model(SIZES, dtype=torch.float64))
NODES = Nodes.of(MODEL.cfg)
METRIC = logit_diff([7, 9, 11], [20, 21, 22])


def make_pair(layout: Layout) -> Pair:
    prompts = (make_prompt(SIZES, layout, seed) for seed in (1, 2))
    return Pair(*(replace(prompt, mel=prompt.mel.double()) for prompt in prompts))


PADDED = make_pair(Layout([6, 8, 7], [[23], [19], [23]]))
EVEN = make_pair(Layout([6, 6, 6], [[23], [23], [23]]))
EXACT = circuits.edges(MODEL, PADDED, METRIC, "exact", by_example=True)


def without(*edges: tuple[str, str, str]) -> Graph:
    """All edges but these; "*" for the receiver means every one."""
    kept = NODES.is_edge.clone()
    for sender, receiver, letter in edges:
        row = slice(None) if sender == "*" else NODES.senders.index(sender)
        column = slice(None) if receiver == "*" else NODES.receivers.index((receiver, letter))
        kept[row, column] = False
    return Graph(NODES, EXACT.scores, kept)


def unpatched(both: Pair = PADDED) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return tuple(METRIC(MODEL(prompt)[:, -1]) for prompt in (both.clean, both.corrupted))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rest", circuits.RESTS)
def test_all_edges_are_the_model(rest):
    found = circuit_metric(MODEL, EVEN, without(), METRIC, rest)
    close(found.metric, unpatched(EVEN)[0])
    assert found.faithfulness == pytest.approx(1)


def test_no_edge_is_the_corrupted_run():
    found = circuit_metric(MODEL, PADDED, EXACT.top(0), METRIC)
    close(found.metric, unpatched()[1])
    assert found.faithfulness == pytest.approx(0)


def test_all_edges_into_the_logits_at_once_are_the_corrupted_run():
    found = circuit_metric(MODEL, PADDED, without(("*", "logits", "resid")), METRIC)
    close(found.metric, unpatched()[1])


@pytest.mark.parametrize(
    "edge",
    [
        ("embed", "L0KV1", "v"),
        ("L0H2", "L1H1", "q"),
        ("L0H3", "L1KV0", "k"),
        ("MLP0", "MLP1", "resid"),
        ("L1H0", "MLP1", "resid"),
        ("embed", "logits", "resid"),
    ],
)
def test_all_edges_but_one_are_exact_patching_of_that_one(edge):
    found = circuit_metric(MODEL, PADDED, without(edge), METRIC)
    sender, receiver, letter = edge
    row, column = NODES.senders.index(sender), NODES.receivers.index((receiver, letter))
    close(found.metric - found.whole, EXACT.by_example[:, row, column])


@pytest.mark.parametrize(
    "edge", [("embed @audio", "L1KV1 @audio", "k"), ("L1H0 @last", "logits @last", "resid")]
)
def test_split_by_position_all_edges_but_one_are_exact_patching_of_that_one(edge):
    sender, receiver, letter = edge
    one = circuits.edges(
        MODEL, PADDED, METRIC, "exact",
        senders=sender, receivers=receiver, by_group=True, by_example=True,
    )  # fmt: skip
    row, column = one.senders.index(sender), one.receivers.index((receiver, letter))
    kept = one.nodes.is_edge.clone()
    kept[row, column] = False
    found = circuit_metric(MODEL, PADDED, one.with_kept(kept), METRIC)
    close(found.metric - found.whole, one.by_example[:, row, column])


def with_z_of_head(z: Tensor, layer: int, head: int, both: Pair) -> Tensor:
    """The metric when one head's z is another, by plain hooks."""

    def patch(activation, hook):
        activation[:, :, head] = z

    hook = (f"blocks.{layer}.attn.hook_z", patch)
    with torch.no_grad():
        return METRIC(MODEL.run_with_hooks(both.clean, fwd_hooks=[hook])[:, -1])


def z_of(layer: int, head: int, both: Pair) -> Tensor:
    name = f"blocks.{layer}.attn.hook_z"
    return MODEL.run_with_cache(both.clean, names_filter=name)[1][name][:, :, head].detach()


def test_a_head_whose_edges_are_zero_writes_nothing():
    found = circuit_metric(MODEL, PADDED, without(("L0H2", "*", "")), METRIC, "zero")
    close(found.metric, with_z_of_head(torch.zeros(8), 0, 2, PADDED))


def test_a_head_whose_edges_are_the_mean_writes_its_mean_over_real_positions():
    found = circuit_metric(MODEL, PADDED, without(("L0H2", "*", "")), METRIC, "mean")
    mean = z_of(0, 2, PADDED)[PADDED.clean.attention_mask].mean(0)
    close(found.metric, with_z_of_head(mean, 0, 2, PADDED))


def test_a_head_whose_edges_are_resampled_writes_what_it_did_for_another_example():
    found = circuit_metric(MODEL, EVEN, without(("L0H2", "*", "")), METRIC, "resampled")
    z = z_of(0, 2, EVEN)
    one_of = [with_z_of_head(z.roll(shift, 0), 0, 2, EVEN) for shift in (1, 2)]
    assert any(torch.allclose(found.metric, expected) for expected in one_of)


def test_the_curve_is_of_runs_of_each_size():
    curve = faithfulness_curve(MODEL, PADDED, EXACT, METRIC, shares=(0.1, 0.5, 1.0))
    sizes = [round(share * len(EXACT)) for share in (0.1, 0.5, 1.0)]
    expected = [
        circuit_metric(MODEL, PADDED, EXACT.top(size), METRIC).faithfulness for size in sizes
    ]
    assert list(curve.table["n_edges"]) == sizes
    assert list(curve.table["faithfulness"]) == pytest.approx(expected, rel=1e-5)
    assert curve.table["faithfulness"].iloc[-1] == pytest.approx(1)


def test_cpr_and_cmd_are_the_areas_under_the_curve_and_from_one():
    shares = (0.1, 0.5, 1.0)
    curve = faithfulness_curve(MODEL, PADDED, EXACT, METRIC, shares=shares, choose="greedy")
    f = curve.table["faithfulness"].to_numpy()
    assert curve.cpr.value == pytest.approx(np.trapezoid(f, shares))
    assert curve.cmd.value == pytest.approx(np.trapezoid(abs(1 - f), shares))
    assert curve.cpr.low <= curve.cpr.value <= curve.cpr.high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rest": "noise"}, "rest must be one of corrupted, mean, zero, resampled"),
        ({"rest": "resampled"}, "padding at different positions"),
        (
            {"graph": Graph(n := Nodes(1, 4, 2), torch.zeros(n.is_edge.shape), n.is_edge)},
            "the graph is of",
        ),
    ],
)
def test_what_cannot_run_is_refused(change, said):
    options = {"pairs": PADDED, "graph": EXACT, "metric": METRIC} | change
    with pytest.raises(ValueError, match=said):
        circuit_metric(MODEL, **options)


@pytest.mark.parametrize("change", [{"shares": (0.5,)}, {"shares": (1.0, 0.5)}, {"choose": "best"}])
def test_what_makes_no_curve_is_refused(change):
    with pytest.raises(ValueError, match="must be"):
        faithfulness_curve(MODEL, PADDED, EXACT, METRIC, **change)
