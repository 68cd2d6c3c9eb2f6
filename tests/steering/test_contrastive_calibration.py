"""alpha is chosen as beta is, and measured on other items by running contrastive decoding."""

import pytest
import torch

from lens_audio import stats
from lens_audio.analysis.dataset import chosen_answers
from lens_audio.stats import paired_difference, wilson
from lens_audio.steering import calibrate_contrastive, contrastive
from lens_audio.steering.audio_silence.calibrate import best_strength
from lens_audio.steering.audio_silence.contrastive import contrastive_answers
from lens_audio.steering.audio_silence.item_activations import item_activations

ALPHAS = (0.5, 2.0)


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "N_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def splits(items):
    return items[::4], items[1::4]


@pytest.fixture(scope="module")
def calibrated(model, splits):
    return calibrate_contrastive(model, *splits, alphas=ALPHAS, max_cost=1.0, verbose=False)


def answered(model, items, alpha):
    """Which items are answered right while contrastive decoding is attached."""
    prompt = model.prompt([i.question for i in items], audio=[i.audio for i in items])
    with torch.no_grad(), contrastive(alpha).attach(model):
        answers = chosen_answers(model, items, prompt)
    return torch.tensor([i.answer == a for i, a in zip(items, answers, strict=True)])


def members(items, condition):
    return torch.tensor([item.condition == condition for item in items])


def test_the_table_and_the_choice_are_those_of_attached_decoding(model, splits, calibrated) -> None:
    items = splits[0]
    right = {alpha: answered(model, items, alpha) for alpha in (0.0, *ALPHAS)}
    conditions = {name: members(items, name) for name in {item.condition for item in items}}
    for _, row in calibrated.table.iterrows():
        here = conditions[row["condition"]]
        assert row["accuracy"] == pytest.approx(float(right[row["alpha"]][here].float().mean()))
    chosen = best_strength(right, conditions, 1.0)
    assert calibrated.decoding.alpha == chosen > 0
    assert set(calibrated.table.loc[calibrated.table["chosen"], "alpha"]) == {chosen}


def test_held_out_intervals_are_of_attached_decoding_on_other_items(model, splits, calibrated):
    items, alpha = splits[1], calibrated.decoding.alpha
    plain, right = answered(model, items, 0.0), answered(model, items, alpha)
    here = members(items, "conflict")
    assert calibrated.interval("accuracy", "conflict") == wilson(right[here])
    assert calibrated.interval("change", "conflict") == paired_difference(right[here], plain[here])


def test_refuses_shared_items_and_alphas_out_of_range(model, items) -> None:
    with pytest.raises(ValueError, match="were calibrated on"):
        calibrate_contrastive(model, items[:2], items[1:3], verbose=False)
    with pytest.raises(ValueError, match="at least one alpha"):
        calibrate_contrastive(model, items[:2], items[2:4], alphas=(), verbose=False)
    with pytest.raises(ValueError, match="alpha must be"):
        calibrate_contrastive(model, items[:2], items[2:4], alphas=(-1,), verbose=False)


def test_both_sides_logits_are_computed_once_for_all_strengths(model, items, monkeypatch) -> None:
    found = item_activations(model, items[-2:], verbose=False)
    calls = []
    logits_of = model.logits_of
    monkeypatch.setattr(model, "logits_of", lambda resid: calls.append(1) or logits_of(resid))
    answers = contrastive_answers(model)
    for strength in (0.0, 1.0, 2.0, 4.0):
        answers(found, strength)
    assert len(calls) == 2
