"""Edges inside the audio encoder, against exact patching and plain hooks."""

from dataclasses import replace

import pytest
import torch
from models import Layout, Sizes, hf_model, make_prompt

from lens_audio import HookedAudioTransformer
from lens_audio.analysis import circuits
from lens_audio.analysis.circuits import Graph, Nodes
from lens_audio.analysis.circuits.encoder import EncoderRuns
from lens_audio.analysis.circuits.exact import exact
from lens_audio.analysis.circuits.runs import plain
from lens_audio.analysis.metrics import logit_diff
from lens_audio.data import Pair

SIZES = Sizes(n_layers=1)
MODEL = HookedAudioTransformer.from_hf(hf_model(SIZES, dtype=torch.float64))
METRIC = logit_diff([7, 9], [20, 21])


def make_pair(*layouts: Layout) -> Pair:
    prompts = (make_prompt(SIZES, one, seed) for seed, one in enumerate(layouts))
    return Pair(*(replace(p, mel=None if p.mel is None else p.mel.double()) for p in prompts))


PAIR = make_pair(*[Layout([6, 8], [[23], [19]])] * 2)  # padded, text and frames alike


def scores(method: str = "eap", **options) -> circuits.Graph:
    options = {"by_example": True, "part": "encoder"} | options
    return circuits.edges(MODEL, PAIR, METRIC, method, **options)


def test_nodes_are_those_of_the_encoder():
    found = scores()
    assert found.senders[:4] == ("frames", "L0H0", "L0H1", "L0H2")
    assert found.receivers[-1].node == "audio"
    assert len(found.senders) == 1 + 2 * (3 + 1)


def test_attribution_is_the_derivative_of_exact_patching():
    with plain(MODEL):
        runs = EncoderRuns.of(MODEL, PAIR, METRIC)
        wanted = runs.nodes.is_edge[..., None]
        ahead, behind = (exact(runs, wanted, amount=a)[..., 0] for a in (1e-4, -1e-4))
    derivative = (ahead - behind) / 2e-4
    found = scores().by_example
    assert float((found - derivative).abs().max()) < 1e-6 * float(derivative.abs().max())


def test_integrated_edges_of_the_frames_add_up_to_the_difference_of_the_metric_by_sound():
    found = scores("eap-ig-inputs", steps=50, senders="frames").by_example.sum((1, 2))
    heard = replace(PAIR.clean, mel=PAIR.corrupted.mel)  # the clean words over the other sound
    with torch.no_grad():
        clean, corrupted = (METRIC(MODEL(prompt)[:, -1]) for prompt in (PAIR.clean, heard))
    torch.testing.assert_close(found, corrupted - clean, atol=1e-3, rtol=1e-3)


def test_an_exact_edge_is_that_of_plain_hooks():
    name = "audio_encoder.blocks.0.hook_mlp_out"
    final = "audio_encoder.blocks.1.hook_resid_post"
    with torch.no_grad():
        clean, corrupted = (
            MODEL.run_with_cache(prompt, names_filter=name)[1][name]
            for prompt in (PAIR.clean, PAIR.corrupted)
        )
        add = [(final, lambda resid, hook: resid + corrupted - clean)]
        patched = METRIC(MODEL.run_with_hooks(PAIR.clean, fwd_hooks=add)[:, -1])
        expected = (patched - METRIC(MODEL(PAIR.clean)[:, -1])).mean()
    assert scores("exact").score("MLP0", "audio") == pytest.approx(float(expected))


@pytest.mark.parametrize("method", circuits.METHODS)
def test_a_padded_row_equals_the_row_alone(method):
    together = scores(method, steps=2).by_example[0]
    alone = Pair(*(first_row(prompt) for prompt in (PAIR.clean, PAIR.corrupted)))
    found = circuits.edges(MODEL, alone, logit_diff([7], [20]), method, 2, part="encoder")
    torch.testing.assert_close(found.scores, together, atol=1e-9, rtol=1e-6)


def first_row(prompt):
    real = prompt.attention_mask[0]
    return type(prompt).from_tensors(
        prompt.tokens[:1, real],
        prompt.mel[:1],
        prompt.mel_lengths[:1],
        audio_mask=prompt.audio_mask[:1, real],
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"part": "projector"}, "part must be 'decoder' or 'encoder'"),
        ({"by_group": True}, "in no groups"),
    ],
)
def test_what_the_encoder_has_not_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        scores(**change)


@pytest.mark.parametrize("clips", [[[], []], [[23, 19], []]])
def test_rows_without_one_clip_each_are_refused(clips):
    both = make_pair(*[Layout([6, 8], clips)] * 2)
    n = sum(map(len, clips))
    if n == 2:
        both = make_pair(*[Layout([6], [[23, 19]])] * 2)
    with pytest.raises(ValueError, match="one spectrogram in each row"):
        circuits.edges(MODEL, both, METRIC, part="encoder")


NODES = Nodes.of(MODEL.cfg, "encoder")


def run(kept, rest="corrupted", nodes=NODES):
    graph = Graph(nodes, torch.zeros(kept.shape), kept)
    return circuits.circuit_metric(MODEL, PAIR, graph, METRIC, rest)


@torch.no_grad()
def heard(sound):
    """The metric of the clean words over a sound, padded where the clean one is."""
    return METRIC(MODEL(replace(PAIR.clean, mel=sound.mel))[:, -1])


@pytest.mark.parametrize("rest", ["corrupted", "mean", "zero"])
def test_all_edges_of_the_encoder_are_the_model(rest):
    found = run(NODES.is_edge, rest)
    torch.testing.assert_close(found.metric, heard(PAIR.clean), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.whole, found.metric, atol=1e-9, rtol=1e-9)


def test_no_edge_of_the_encoder_is_the_corrupted_sound():
    found = run(torch.zeros_like(NODES.is_edge))
    torch.testing.assert_close(found.metric, heard(PAIR.corrupted), atol=1e-9, rtol=1e-9)
    assert found.faithfulness == pytest.approx(0)


@pytest.mark.parametrize(
    "edge",
    [("frames", "L0KV1", "v"), ("L0H2", "L1H1", "q"), ("MLP0", "L1KV0", "k"), ("L1H0", "audio")],
)
def test_all_edges_of_the_encoder_but_one_are_exact_patching_of_that_one(edge):
    exactly = scores("exact", senders=edge[0], receivers=edge[1]).by_example
    found = run(NODES.is_edge & ~NODES.matrix_of([edge]))
    expected = exactly[:, *NODES.place(*edge)]
    torch.testing.assert_close(found.metric - found.whole, expected, atol=1e-9, rtol=1e-9)


def test_frames_in_groups_are_refused():
    nodes = replace(NODES, groups=("audio", "text"))
    with pytest.raises(ValueError, match="in no groups"):
        run(nodes.is_edge, nodes=nodes)
