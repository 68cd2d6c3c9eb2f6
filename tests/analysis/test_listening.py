"""Specialist heads: the correlation is Pearson's, the p-values are permutations', splits are apart."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
from models import Sizes, hooked_model

from lens_audio import HookedAudioTransformer, testbed
from lens_audio.analysis import audio_attention, audio_mass, choice_log_probs
from lens_audio.analysis.dataset import (
    LabelledItem,
    batches,
    choice_logits,
    chosen_answers,
    first_tokens,
    labelled,
    split_items,
)
from lens_audio.analysis.listening import (
    MassAndCorrectness,
    auroc,
    best_heads,
    correlate,
    find_specialists,
    listening_score,
    measure,
    specialists_of,
)


def made_up(n: int = 40, seed: int = 0) -> MassAndCorrectness:
    """Masses of 2 x 3 heads, the first of which follows correctness."""
    rng = torch.Generator().manual_seed(seed)
    mass = torch.rand(n, 2, 3, generator=rng)
    correct = mass[:, 0, 0] + 0.4 * torch.rand(n, generator=rng) > 0.7
    return MassAndCorrectness(mass, correct)


@pytest.fixture(scope="module")
def model() -> HookedAudioTransformer:
    return HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), device="cpu")


@pytest.fixture(scope="module")
def items() -> list[LabelledItem]:
    return [
        item
        for number, caption in enumerate(("none", "false"))
        for item in labelled(testbed.make_items(8, 60 + number, caption=caption))
    ]


def item(**changes: object) -> LabelledItem:
    facts = {"id": "x", "question": "What?", "choices": ("a", "b"), "answer": "a", **changes}
    return LabelledItem(**facts)


def test_r_is_pearson_s(tmp_path) -> None:
    mass, correct = made_up()
    found = correlate(mass, correct, 10)
    for layer in range(2):
        for head in range(3):
            expected = scipy.stats.pearsonr(mass[:, layer, head], correct.double()).statistic
            assert float(found.r[layer, head]) == pytest.approx(expected, abs=1e-6)


def test_p_values_are_those_of_a_permutation_test() -> None:
    mass, correct = made_up(20)
    found = correlate(mass, correct, 4000)
    for head in range(3):
        x = mass[:, 1, head].double().numpy()
        expected = scipy.stats.permutation_test(
            (correct.double().numpy(),),
            lambda y, x=x: np.corrcoef(x, y)[0, 1],
            permutation_type="pairings",
            n_resamples=2000,
            alternative="greater",
            rng=np.random.default_rng(0),
        ).pvalue
        assert float(found.p_value[1, head]) == pytest.approx(expected, abs=0.05)
    assert float(found.p_value[0, 0]) < 0.01


def test_corrected_p_is_never_below_the_plain_one_and_seeds_repeat() -> None:
    found = correlate(*made_up(), 300, seed=3)
    assert (found.p_corrected >= found.p_value).all()
    again = correlate(*made_up(), 300, seed=3)
    assert torch.equal(found.p_value, again.p_value)


def test_the_corrected_p_of_noise_holds_its_level() -> None:
    """Among 24 noise heads some plain p is small; the corrected one is not."""
    rng = torch.Generator().manual_seed(0)
    smallest = []
    for _ in range(60):
        mass, y = torch.rand(20, 4, 6, generator=rng), torch.rand(20, generator=rng) > 0.5
        smallest.append(float(correlate(mass, y, 99).p_corrected.min()))
    assert np.mean([p <= 0.1 for p in smallest]) < 0.25


@pytest.mark.parametrize(("right", "said"), [(True, "right"), (False, "wrong")])
def test_all_answers_alike_make_a_labelled_undefined_result(right, said) -> None:
    mass, correct = made_up(8)
    with pytest.warns(UserWarning, match=f"all 8 answers are {said}"):
        found = correlate(mass, torch.full_like(correct, right))
    assert found.r.isnan().all()
    assert found.undefined is not None
    both = (labelled([]), labelled([]))
    with pytest.warns(UserWarning, match="undefined"):
        made = specialists_of(
            MassAndCorrectness(mass, torch.full_like(correct, right)), made_up(8), both, k=2
        )
    assert made.heads == []
    assert made.undefined == found.undefined
    assert made.auroc.undefined == "some scores are undefined"


def test_a_head_that_never_changes_is_undefined_and_never_chosen() -> None:
    mass, correct = made_up()
    mass[:, 1, 2] = 0.25
    found = correlate(mass, correct, 50)
    assert found.r[1, 2].isnan()
    assert found.p_value[1, 2].isnan()
    assert int(found.r.isnan().sum()) == 1
    assert (1, 2) not in best_heads(found.r, 5)
    with pytest.raises(ValueError, match="5 of 6"):
        best_heads(found.r, 6)


def test_refuses_too_few_items_and_no_permutations() -> None:
    with pytest.raises(ValueError, match="3 items are too few"):
        correlate(*made_up(3))
    with pytest.raises(ValueError, match="n_permutations"):
        correlate(*made_up(), 0)


def test_best_heads_come_highest_first() -> None:
    r = torch.tensor([[0.1, 0.9], [0.5, -0.8]])
    assert best_heads(r, 3) == [(0, 1), (1, 0), (0, 0)]


def test_score_is_the_mean_mass_of_the_heads() -> None:
    mass = torch.rand(5, 2, 3)
    expected = (mass[:, 0, 1] + mass[:, 1, 2]) / 2
    torch.testing.assert_close(listening_score(mass, [(0, 1), (1, 2)]), expected)
    for heads, message in (([], "no heads"), ([(2, 0)], "does not exist"), ([(0, 0)] * 2, "twice")):
        with pytest.raises(ValueError, match=message):
            listening_score(mass, heads)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    scores, labels = torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, True, False, True])
    found = auroc(scores, labels, 200)
    assert found.value == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert found.low <= found.value <= found.high
    assert auroc(scores, labels, 200) == found
    undefined = auroc(scores, torch.ones(4, dtype=torch.bool))
    assert "same label" in str(undefined)
    assert np.isnan(undefined.value)


def test_measured_mass_and_answers_are_those_of_single_prompts(model, items) -> None:
    found = measure(model, items, batch_size=5, verbose=False)
    for number in (0, 11):
        one = items[number]
        prompt = model.prompt(one.question, audio=one.audio)
        mass = audio_mass(audio_attention(model, prompt))[0]
        torch.testing.assert_close(found.mass[number], mass, atol=1e-4, rtol=0)
        best = int(choice_log_probs(model, prompt, one.choices).argmax())
        assert bool(found.correct[number]) == (one.choices[best] == one.answer)


def test_generated_text_can_be_judged_by_a_match_function(model, items) -> None:
    seen = []

    def match(text, answer, choices):
        seen.append((text, answer, choices))
        return answer in text

    found = measure(model, items[:3], match=match, verbose=False)
    assert [len(text) > 0 for text, *_ in seen] == [True] * 3
    assert [(answer, choices) for _, answer, choices in seen] == [
        (i.answer, i.choices) for i in items[:3]
    ]
    plain = measure(model, items[:3], verbose=False)
    assert torch.equal(found.correct, plain.correct)


def test_choices_of_several_tokens_are_scored_whole(model, items) -> None:
    one = items[0]
    some = [LabelledItem("m", one.question, ("bell rings", "bell bell"), "bell bell", one.audio)]
    ((batch, prompt),) = batches(model, some, verbose=False)
    best = int(choice_log_probs(model, prompt, some[0].choices).argmax())
    assert chosen_answers(model, batch, prompt) == [some[0].choices[best]]
    with pytest.raises(ValueError, match="begin with the same token"):
        first_tokens(model, some)


def test_rows_with_fewer_choices_never_choose_a_missing_one(model) -> None:
    few, many = item(choices=("yes", "no"), answer="no"), item(
        choices=("rain", "bell", "horn"), answer="bell"
    )  # fmt: skip
    tokens = first_tokens(model, [few, many])
    assert tokens[0, 2] == -1
    logits = choice_logits(torch.full((2, model.cfg.d_vocab), -5.0), tokens)
    assert logits[0, 2] == -torch.inf
    assert logits[1].isfinite().all()


def test_splits_are_disjoint_seeded_and_balanced(model, items, tmp_path) -> None:
    found = find_specialists(model, items, k=3, n_permutations=20, verbose=False)
    assert not set(found.calibration_ids) & set(found.test_ids)
    assert len(found.calibration_ids) == len(found.test_ids) == len(found.test_scores) == 8
    first, second = split_items(items, 0.5, seed=0)
    assert [i.id for i in first] == found.calibration_ids
    assert [i.id for i in second] == found.test_ids
    assert {i.condition for i in first} == {"captionless", "conflict"}
    assert split_items(items, 0.5, seed=1)[0] != first
    table = found.to_dataframe()
    assert len(table) == 32
    assert (table["specialist"] > 0).sum() == len(found.heads)
    found.to_json(tmp_path / "heads.json")
    facts = json.loads((tmp_path / "heads.json").read_text())
    assert facts["test_ids"] == found.test_ids


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, items: find_specialists(model, items[:7]), "7 items are too few"),
        (lambda model, items: find_specialists(model, items, split=1.0), "between 0 and 1"),
        (lambda model, items: find_specialists(model, items, k=33), "this model has 32"),
        (lambda model, items: measure(model, []), "0 items"),
        (lambda model, items: measure(model, [items[0], items[0]]), "more than once"),
        (lambda model, items: measure(model, items, batch_size=0), "batch_size"),
        (lambda model, items: split_items([item()], 0.5, 0), "has one item"),
    ],
)
def test_refuses_bad_data(model, items, call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(model, items)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ("a",)}, "at least two"),
        ({"choices": ("a", "b", "a")}, "twice"),
        ({"answer": "c"}, "none of its choices"),
    ],
)
def test_refuses_items_that_cannot_be_answered(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        item(**changes)


def test_only_items_are_labelled() -> None:
    one = item()
    assert labelled([one]) == [one]
    with pytest.raises(TypeError, match="not dict"):
        labelled([{"question": "What?"}])


def test_a_model_without_a_processor_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no processor"):
        measure(hooked_model(Sizes()), [item()])


def test_a_floor_of_mean_mass_leaves_heads_out_of_ranking_and_correction() -> None:
    mass, correct = made_up(12)
    mass = 0.5 * mass + 0.1
    mass[:, 0, 1] = 0.001 * correct  # hardly any mass, and a correlation of 1
    measured, items = MassAndCorrectness(mass, correct), labelled([])
    plain = specialists_of(measured, measured, (items, items), k=2, n_permutations=50)
    assert plain.heads[0] == (0, 1)
    floored = specialists_of(
        measured, measured, (items, items), k=40, n_permutations=50, floor=0.02
    )
    assert (0, 1) not in floored.heads
    assert len(floored.heads) == mass[0].numel() - 1
    assert floored.calibration.p_corrected[0, 1].isnan()
    assert float(floored.mean_mass[0, 1]) < 0.02
