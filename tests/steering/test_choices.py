"""How many heads, which, and how strongly: the rules on answers and masses made by hand."""

import pytest
import torch

from lens_audio.analysis.attention import heads_above
from lens_audio.analysis.listening import best_heads, correlate
from lens_audio.steering import calibrate
from lens_audio.steering.audio_silence.calibrate import (
    Separation,
    best_strength,
    choose_setting,
    separations_of,
)

CONDITIONS = {
    "plain": torch.tensor([True] * 10 + [False] * 10),
    "conflict": torch.tensor([False] * 10 + [True] * 10),
}


def right(plain: int, conflict: int) -> torch.Tensor:
    """So many of ten right in each condition."""
    return torch.tensor([*(i < plain for i in range(10)), *(i < conflict for i in range(10))])


STRENGTHS = {0.0: right(9, 1), 2.0: right(9, 5), 4.0: right(9, 5), 8.0: right(8, 9)}


@pytest.mark.parametrize(("max_cost", "beta"), [(0.02, 2.0), (0.1, 8.0), (0.0, 2.0)])
def test_strength_is_the_most_accurate_that_costs_little_and_of_equals_the_smallest(
    max_cost, beta
) -> None:
    assert best_strength(STRENGTHS, CONDITIONS, max_cost) == beta


def test_doing_nothing_wins_where_every_strength_costs() -> None:
    assert best_strength({0.0: right(9, 1), 1.0: right(8, 9)}, CONDITIONS, 0.02) == 0.0


@pytest.mark.parametrize(
    ("separations", "k"),
    [
        ({2: Separation(0.7, 1), 4: Separation(0.8, 4)}, 4),
        ({2: Separation(0.8, 2), 4: Separation(0.8, 1)}, 4),
        ({2: Separation(0.8, 2), 4: Separation(0.8, 2)}, 2),
        ({2: Separation(0.8, 2), 4: Separation(0.8 + 1e-12, 3)}, 2),
    ],
    ids=["best", "fewer layers", "fewer heads", "equal but for rounding"],
)
def test_equals_in_auroc_go_to_few_layers_and_then_to_few_heads(separations, k) -> None:
    correct = {(n, beta): r for n in separations for beta, r in STRENGTHS.items()}
    table, chosen, beta = choose_setting(correct, STRENGTHS[0.0], CONDITIONS, separations, 0.02)
    assert (chosen, beta) == (k, 2.0)
    assert set(table.loc[table["chosen"], "k"]) == {k}


def test_a_strength_of_many_digits_is_chosen_as_it_was_tried() -> None:
    answers, plain = torch.tensor([True, True]), torch.tensor([True, False])
    correct = {(2, 0.0): plain, (2, 1 / 3): answers}
    everyone = {"all": torch.ones(2, dtype=torch.bool)}
    table, k, beta = choose_setting(correct, plain, everyone, {2: Separation(0.5, 1)}, 0.0)
    assert (k, beta) == (2, 1 / 3)
    assert table.loc[table["chosen"], "beta"].tolist() == [1 / 3]


def test_a_separation_counts_the_layers_of_its_heads() -> None:
    mass = torch.rand(30, 3, 2, generator=torch.Generator().manual_seed(0))
    answers = torch.arange(30) % 2 == 0
    found = correlate(mass, answers, 1)
    for k, separation in separations_of(mass, answers, found, (1, 4)).items():
        assert separation.n_layers == len({layer for layer, _ in best_heads(found.r, k)})


def test_heads_above_a_floor_are_those_of_enough_mean_mass() -> None:
    mass = torch.tensor([[[0.3, 0.01]], [[0.1, 0.03]]])
    assert heads_above(mass, 0.0).tolist() == [[True, True]]
    assert heads_above(mass, 0.02).tolist() == [[True, True]]
    assert heads_above(mass, 0.021).tolist() == [[True, False]]
    with pytest.raises(ValueError, match=r"no head has a mean audio mass of 0\.5 or more"):
        heads_above(mass, 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        heads_above(mass, -0.1)


@pytest.fixture(scope="module")
def few(items):
    """Some of each condition."""
    return items[:6] + items[-6:]


SETTINGS = {"ks": (1, 2), "betas": (2,), "n_permutations": 5, "verbose": False}


def test_a_floor_of_zero_ranks_as_no_floor_and_shows_what_a_floor_would_find(model, few) -> None:
    found = calibrate(model, few, **SETTINGS)
    k, r = len(found.steering.heads), found.correlation.r
    mean = found.activations.mass.mean(0)
    assert list(found.steering.heads) == best_heads(r, k)
    above = mean >= 0.02
    assert found.other_heads == {
        "heads by r above mass 0.02": best_heads(r.masked_fill(~above, torch.nan), k),
        "heads by mean mass": best_heads(mean, k),
    }


def test_a_floor_leaves_out_heads_of_little_mass_and_shows_what_r_alone_finds(model, few) -> None:
    plain = calibrate(model, few, **SETTINGS)
    mean = plain.activations.mass.mean(0)
    floor = float(mean.flatten().sort().values[-3])  # three heads are left
    found = calibrate(model, few, floor=floor, **(SETTINGS | {"ks": (2, 3, 12)}))
    assert all(mean[head] >= floor for head in found.steering.heads)
    assert set(found.table["k"]) == {2, 3}
    k = len(found.steering.heads)
    assert found.other_heads["heads by r without a floor"] == best_heads(plain.correlation.r, k)
    with pytest.raises(ValueError, match="only 3 heads"):
        calibrate(model, few, floor=floor, **(SETTINGS | {"ks": (4,)}))
