"""A sweep over coefficients is attached steering at each, and random vectors are as long."""

from dataclasses import replace

import pytest
import torch

from lens_audio.analysis import choice_log_probs
from lens_audio.plots import coefficient_curve
from lens_audio.stats import over_draws, wilson
from lens_audio.steering import SteeringVector, coefficient_sweep
from lens_audio.steering.coefficient_sweep import RANDOM, VECTOR

COEFFICIENTS = (2.0, 0.0, -1.0)


@pytest.fixture(scope="module")
def vector(model):
    generator = torch.Generator().manual_seed(0)
    d_model = model.cfg.d_model
    return SteeringVector({l: 3 * torch.randn(d_model, generator=generator) for l in (1, 2)})


@pytest.fixture(scope="module")
def swept(model, items, vector):
    return coefficient_sweep(
        model, items[-6:], vector, COEFFICIENTS, n_draws=2, batch_size=4, verbose=False
    )


def test_each_cell_is_attached_steering(model, items, vector, swept) -> None:
    assert swept.coefficients == [-1.0, 0.0, 2.0]
    item = items[-2]
    prompt = model.prompt(item.question, audio=item.audio)
    drawn = [vector, *(vector.random_control(seed=n) for n in range(2))]
    for draw, one in enumerate(drawn):
        for number, coefficient in enumerate(swept.coefficients):
            with one.attach(model, coefficient):
                expected = choice_log_probs(model, prompt, item.choices)[0]
            assert int(swept.chosen[draw, number, 4]) == int(expected.argmax())
            found = float(swept.log_probs[draw, number, 4])
            assert found == pytest.approx(float(expected[item.answer_index]), abs=1e-3)


def test_choices_of_several_tokens_are_scored_whole(model, items, vector) -> None:
    item = replace(items[-1], choices=["bell rings", "rain"], answer="rain")
    found = coefficient_sweep(model, [item], vector, [1.0], n_draws=0, verbose=False)
    prompt = model.prompt(item.question, audio=item.audio)
    with vector.attach(model):
        expected = choice_log_probs(model, prompt, item.choices)[0, 1]
    assert float(found.log_probs[0, 0, 0]) == pytest.approx(float(expected), abs=1e-3)


def test_the_table_has_the_intervals_of_stats(items, swept) -> None:
    table = swept.to_dataframe()
    assert list(table["condition"].unique()) == ["conflict"]
    answers = torch.tensor([item.answer_index for item in items[-6:]])
    right = swept.chosen == answers
    steered = table[(table["method"] == VECTOR) & (table["coefficient"] == 2)].iloc[0]
    assert tuple(steered[["accuracy", "low", "high"]]) == wilson(right[0, 2])[:3]
    drawn = table[(table["method"] == RANDOM) & (table["coefficient"] == 2)].iloc[0]
    assert tuple(drawn[["accuracy", "low", "high"]]) == over_draws(right[1:, 2])[:3]
    assert drawn["over"] == "draws"
    assert steered["log_prob"] == pytest.approx(float(swept.log_probs[0, 2].mean()))
    assert steered["log_prob_low"] < steered["log_prob"] < steered["log_prob_high"]


def test_random_vectors_have_the_vectors_norm_and_their_own_seeded_directions(vector) -> None:
    first, second = (vector.random_control(seed=n) for n in (3, 4))
    again, other = vector.random_control(seed=3), vector.random_control(seed=5)
    for layer, direction in vector.directions.items():
        for one in (first, second):
            torch.testing.assert_close(one.directions[layer].norm(), direction.norm())
        assert torch.equal(first.directions[layer], again.directions[layer])
        for one in (second, other):
            assert not torch.equal(one.directions[layer], first.directions[layer])


def test_is_drawn_with_a_line_a_method(swept) -> None:
    table = swept.to_dataframe()
    lines = [trace for trace in swept.plot().data if trace.showlegend]
    assert [line.name for line in lines] == [VECTOR, RANDOM]
    for line in lines:
        rows = table[table["method"] == line.name]
        assert list(line.x) == list(rows["coefficient"])
        assert list(line.y) == list(rows["accuracy"])
    with pytest.raises(ValueError, match="no column coefficient"):
        coefficient_curve(table.rename(columns={"coefficient": "beta"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": []}, "at least one finite coefficient"),
        ({"coefficients": [float("nan")]}, "at least one finite coefficient"),
        ({"n_draws": -1}, "n_draws must be at least 0"),
        ({"vector": SteeringVector({99: torch.ones(128)})}, "99"),
    ],
)
def test_refuses_bad_options(model, items, vector, options, message) -> None:
    given = {"vector": vector, "coefficients": [1.0], "verbose": False} | options
    with pytest.raises(ValueError, match=message):
        coefficient_sweep(model, items[:1], **given)
