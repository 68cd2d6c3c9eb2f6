"""The score card, on a model of which one head alone writes: it is the only reader of the audio."""

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import lens_audio as la
from lens_audio.analysis import audio_attention
from lens_audio.analysis.circuits import edges, pairs_of_items
from lens_audio.data.answers import chosen_answers, first_tokens
from lens_audio.data.batches import batches
from lens_audio.data.knock_out import choice_probs_without
from lens_audio.evals.localisation import METHODS, Method, ScoreCard, score
from lens_audio.evals.localisation.card import share_in_first
from lens_audio.evals.localisation.methods import above_floor, correlation
from lens_audio.tables import read_table
from lens_audio.testbed import Truth, make_scene_pairs
from lens_audio.testbed.train import build_model

READER, DECOY = (1, 2), (0, 5)
N_LAYERS, N_HEADS, D_HEAD = 2, 8, 16
N_PAIRS = 6
EVERY = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]
BY_MASS = {"correlation", "correlation above a floor", "floor of mass", "mean mass"}
TRUTH = Truth("hand-made", N_LAYERS, N_HEADS, (READER,), (), (DECOY,), (), "by construction")


@pytest.fixture(scope="module")
def one_reader(model):
    """A random model in which no head but the reader writes; the decoy attends to the audio alone."""
    hf = build_model(model.processor, seed=0).eval()
    hf.config.text_config.num_hidden_layers = N_LAYERS
    hf.config.text_config.layer_types = hf.config.text_config.layer_types[:N_LAYERS]
    layers = hf.model.language_model.layers = hf.model.language_model.layers[:N_LAYERS]
    of_head = slice(READER[1] * D_HEAD, (READER[1] + 1) * D_HEAD)
    with torch.no_grad():
        for layer, block in enumerate(layers):
            written = block.self_attn.o_proj.weight
            kept = 20 * written[:, of_head] if layer == READER[0] else 0.0
            written.zero_()
            written[:, of_head] = kept
        made = la.HookedAudioTransformer.from_hf(hf, model.processor)
        prompt = made.prompt("What?", audio=make_scene_pairs(1, 0)[0].clean.audio)
        _, cache = made.run_with_cache(prompt, names_filter="blocks.0.ln1.hook_normalized")
        seen = cache["blocks.0.ln1.hook_normalized"][0] * layers[0].input_layernorm.weight
        is_audio = prompt.audio_mask[0]
        toward_audio = seen[is_audio].mean(0) - seen[~is_audio].mean(0)
        attn, row = (
            layers[DECOY[0]].self_attn,
            DECOY[1] * D_HEAD + 7,
        )  # the slowest rotary dimension
        head = slice(DECOY[1] * D_HEAD, (DECOY[1] + 1) * D_HEAD)
        attn.q_proj.weight[head], attn.k_proj.weight[head] = 0.0, 0.0
        attn.q_proj.bias[row] = 400.0
        attn.k_proj.weight[row] = toward_audio / toward_audio.norm()
    return la.HookedAudioTransformer.from_hf(hf, model.processor)


@pytest.fixture(scope="module")
def pairs(one_reader):
    """The clean answer is the one that hearing the clean sound favours most, the other least."""
    found = []
    for clean, corrupted in make_scene_pairs(N_PAIRS, 5):
        prompt = one_reader.prompt(clean.question, audio=clean.audio)
        tokens = first_tokens(one_reader, [clean])
        heard, deaf = choice_probs_without(one_reader, prompt, [[], EVERY], tokens)[:, 0]
        best, worst = (heard - deaf).argmax(), (heard - deaf).argmin()
        answers = (clean.choices[i] for i in (best, worst))
        found.append(
            [replace(o, answer=a) for o, a in zip((clean, corrupted), answers, strict=True)]
        )
    return [tuple(both) for both in found]


@pytest.fixture(scope="module")
def card_and_rows(one_reader, pairs):
    """The card, and the rows that each method sent through the last block, two for a backward."""
    rows = dict.fromkeys(METHODS, 0)

    def counted(name, model, pairs):
        def count(block, inputs, resid):
            rows[name] += len(resid)
            if resid.requires_grad:
                resid.register_hook(count_backward)

        def count_backward(gradient):
            rows[name] += 2 * len(gradient)

        handle = model.blocks[-1].register_forward_hook(count)
        try:
            return METHODS[name].function(model, pairs)
        finally:
            handle.remove()

    methods = {n: replace(m, function=partial(counted, n)) for n, m in METHODS.items()}
    pairs = {"captionless": pairs}
    return score(one_reader, TRUTH, pairs, methods, n_resamples=100, verbose=False), rows


@pytest.fixture(scope="module")
def card(card_and_rows):
    return card_and_rows[0]


def row_of(card, method, condition="captionless"):
    rows = card.table.set_index(["condition", "method"])
    return rows.loc[condition, method]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in BY_MASS])
def test_a_method_of_effects_finds_the_only_head_that_writes(card, method):
    row = row_of(card, method)
    assert row["heads"] == "L1H2"
    assert (row["auroc"], row["precision"], row["decoys"]) == (1, 1, 0)


def test_mean_mass_is_fooled_by_the_decoy_and_the_card_says_so(card):
    row = row_of(card, "mean mass")
    assert (row["heads"], row["precision"], row["decoys"]) == ("L0H5", 0, 1)
    said = "On hand-made (captionless) fooled by decoys, among the first 1 heads: "
    assert f"{said}mean mass (100% decoys, 0% readers)" in " ".join(card.findings)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_costs_as_many_forwards_as_it_says(card_and_rows, name):
    card, rows = card_and_rows
    assert rows[name] == row_of(card, name)["forwards"] * N_PAIRS


OF_EDGES = [name for name, method in METHODS.items() if method.of_edges]


@pytest.mark.parametrize("method", OF_EDGES)
def test_a_method_of_edges_finds_those_from_the_audio_into_the_only_head_that_writes(card, method):
    row = row_of(card, method)
    assert (row["edge_auroc"], row["edge_auroc_low"], row["edge_auroc_high"]) == (1, 1, 1)


def test_a_method_that_scores_no_edges_has_no_auroc_of_them(card):
    rows = card.table.set_index("method")
    assert set(rows.index[rows["edge_auroc"].isna()]) == {*METHODS} - {*OF_EDGES}


@pytest.mark.parametrize(
    ("name", "method"),
    zip(OF_EDGES, ["eap", "eap-ig-inputs", "eap-ig-activations", "exact"], strict=True),
)
def test_edges_from_the_audio_are_those_from_the_embeddings(one_reader, pairs, name, method):
    some, reader = pairs[:2], "L{}KV{}".format(*READER)
    graph = edges(
        one_reader, pairs_of_items(one_reader, some), method=method,
        senders="embed", receivers=reader,
    )  # fmt: skip
    expected = [graph.score("embed", reader, letter) for letter in "kv"]
    found = METHODS[name].function(one_reader, some)(torch.arange(2))
    assert found[READER].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def measured(one_reader, pairs):
    """Mass and correctness of every item [pair, side], each asked alone."""
    mass = np.empty((N_PAIRS, 2, N_LAYERS, N_HEADS))
    correct = np.empty((N_PAIRS, 2), dtype=bool)
    for i, j in itertools.product(range(N_PAIRS), range(2)):
        item = pairs[i][j]
        ((_, prompt),) = batches(one_reader, [item], 1, verbose=False)
        mass[i, j] = audio_attention(one_reader, prompt)[0].sum(-1)
        correct[i, j] = chosen_answers(one_reader, [item], prompt) == [item.answer]
    return mass, correct


def test_correlation_on_some_pairs_is_pearsons_r_over_their_items(one_reader, pairs, measured):
    mass, correct = measured
    some = [0, 2, 2, 3, 5]
    x, y = mass[some].reshape(10, -1), correct[some].reshape(10)
    varies = x.std(0) > 1e-4  # what varies less is rounding, which batches change
    assert varies.sum() >= N_HEADS
    expected = [np.corrcoef(column, y)[0, 1] for column in x.T[varies]]
    found = correlation(one_reader, pairs)(torch.tensor(some))
    assert found.flatten().numpy()[varies] == pytest.approx(expected, abs=1e-3)


def test_a_floor_leaves_heads_of_less_mean_mass_without_a_score(one_reader, pairs, measured):
    mean = measured[0].mean((0, 1))
    floor = float(np.median(mean))
    found = correlation(one_reader, pairs, floor)(torch.arange(N_PAIRS))
    assert np.array_equal(found.isnan().numpy(), mean < floor)


def test_the_floor_alone_is_one_above_it(one_reader, pairs, measured):
    found = above_floor(one_reader, pairs)(torch.tensor([1, 4]))
    assert np.array_equal(found.numpy(), measured[0][[1, 4]].mean((0, 1)) >= 0.02)


def given(scores):
    """A method that gives these scores whatever the model and pairs."""
    return lambda model, pairs: torch.as_tensor(scores)


def scored(one_reader, pairs, scores, truth=TRUTH, condition="captionless"):
    card = score(one_reader, truth, {condition: pairs}, {"own": scores}, verbose=False)
    return row_of(card, "own", condition)


def one_hot(*heads):
    scores = torch.zeros(N_LAYERS, N_HEADS)
    for place, head in enumerate(heads):
        scores[head] = 1 / (place + 1)
    return scores


def test_a_function_of_ones_own_is_scored_without_an_interval(one_reader, pairs):
    row = scored(one_reader, pairs, given(one_hot(DECOY, READER)))
    assert row["auroc"] == pytest.approx(14 / 15)
    assert np.isnan([row["auroc_low"], row["precision_high"]]).all()
    assert row["forwards"] is pd.NA


def test_the_interval_of_scores_by_pair_is_a_bootstrap_over_pairs(one_reader, pairs):
    by_pair = torch.stack([one_hot(READER)] * 5 + [10 * one_hot(DECOY)])
    row = scored(one_reader, pairs, given(by_pair))
    # Without the last pair the reader leads, with it the decoy: (5/6)^6 = 1/3 of the resamples.
    assert (row["precision"], row["precision_low"], row["precision_high"]) == (0, 0, 1)


def test_absolute_scores_rank_by_size_after_the_mean_over_pairs(one_reader, pairs):
    by_pair = torch.stack([-one_hot(READER)] * N_PAIRS)
    by_pair[::2, *DECOY], by_pair[1::2, *DECOY] = 9, -9
    assert scored(one_reader, pairs, Method(given(by_pair), absolute=True))["precision"] == 1


def of_edges(**sizes):
    """Scores of the edges into keys and values: of the reader, the decoy, and another head."""
    scores = torch.zeros(N_LAYERS, N_HEADS, 2)
    for name, head in {"reader": READER, "decoy": DECOY, "other": (0, 0)}.items():
        scores[head] = torch.tensor(sizes.get(name, (0.0, 0.0)))
    return scores


def test_edges_are_ranked_by_size_and_heads_by_the_sum_of_both(one_reader, pairs):
    scores = of_edges(reader=(-3.0, 1.0), decoy=(9.0, 9.0), other=(0.0, -2.0))
    row = scored(one_reader, pairs, Method(given(scores), of_edges=True))
    # Of 28 edges into other heads, the decoy's left out, one is larger than that into the values.
    assert row["edge_auroc"] == pytest.approx((28 + 27) / (2 * 28))
    assert row["heads"] == "L0H5"


def test_the_interval_of_edges_is_a_bootstrap_over_pairs(one_reader, pairs):
    by_pair = [of_edges(reader=(1.0, 1.0))] * 5 + [of_edges(other=(9.0, 9.0))]
    row = scored(one_reader, pairs, Method(given(torch.stack(by_pair)), of_edges=True))
    # Without the last pair the reader's lead, with it another head's: 2 of 28 are larger.
    found = [row[f"edge_auroc{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([26 / 28, 26 / 28, 1])


def test_heads_without_a_score_come_last_and_none_at_all_is_undefined(one_reader, pairs):
    nan = torch.full((N_LAYERS, N_HEADS), torch.nan)
    assert np.isnan(scored(one_reader, pairs, given(nan))["auroc"])
    nan[READER] = -5.0
    assert scored(one_reader, pairs, given(nan))["auroc"] == 1


def test_backups_and_on_conflict_items_the_vetos_layers_count_for_nothing(one_reader, pairs):
    truth = replace(TRUTH, backups=((0, 0),), veto_layers=(1,))
    finds = given(one_hot((0, 0), (1, 1), READER))
    assert scored(one_reader, pairs, finds, truth)["precision"] == 0
    assert scored(one_reader, pairs, finds, truth, "conflict")["precision"] == 1


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_share_in_the_first_is_the_mean_over_all_orders_of_ties(k):
    scores, is_member = np.array([2.0, 1, 1, 1, -np.inf]), np.array([0, 1, 0, 1, 1], dtype=bool)
    orders = [o for o in itertools.permutations(range(5)) if (np.diff(scores[list(o)]) <= 0).all()]
    expected = np.mean([is_member[list(order[:k])].mean() for order in orders])
    assert share_in_first(scores[None], is_member, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"own": given(torch.zeros(3))}}, r"method 'own' gave scores of shape \(3,\)"),
        ({"truth": replace(TRUTH, n_layers=8)}, "the truth is of 8 layers x 8 heads, this model"),
        ({"truth": replace(TRUTH, readers=())}, "no readers are known of hand-made"),
        ({"methods": {"own": lambda *_: lambda some: some}}, r"gave scores of shape \(6,\)"),
        (
            {"methods": {"own": Method(given(torch.zeros(2, 8)), of_edges=True)}},
            r"one for each edge, \(2, 8, 2\)",
        ),
        ({"methods": {}}, "0 methods and 1 conditions; give at least one of each"),
        ({"pairs": {"conflict": []}}, "0 pairs of conflict are too few; give at least 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(one_reader, pairs, change, message):
    asked = {"truth": TRUTH, "pairs": {"captionless": pairs}, "methods": METHODS} | change
    with pytest.raises(ValueError, match=message):
        score(one_reader, verbose=False, **asked)


def test_a_card_is_written_and_read_again(card, tmp_path):
    card.to_csv(tmp_path / "card.csv")
    written = read_table(tmp_path / "card.csv")
    assert list(written.columns) == list(card.table.columns)
    assert written["auroc"].to_numpy() == pytest.approx(card.table["auroc"].to_numpy(), nan_ok=True)
    card.to_json(tmp_path / "card.json")
    facts = json.loads((tmp_path / "card.json").read_text())
    assert facts["truths"][0]["decoys"] == [list(DECOY)]
    assert [row["heads"] for row in facts["table"]] == list(card.table["heads"])


def test_cards_of_several_checkpoints_are_joined(card):
    both = ScoreCard.joined([card, card])
    assert len(both.table) == 2 * len(METHODS)
    assert both.truths == (TRUTH, TRUTH)
