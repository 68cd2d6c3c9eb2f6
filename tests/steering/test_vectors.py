"""Steering vectors: what they are, that they act, and that they fit."""

import pytest
import torch

from lens_audio.steering import SteeringVector, mean_difference, pca_of_differences
from lens_audio.steering.vectors import activations


@pytest.fixture(scope="module")
def pair(model, items):
    """Two batches of the same questions over other sounds."""
    first = model.prompt([i.question for i in items[:3]], audio=[i.audio for i in items[:3]])
    second = model.prompt([i.question for i in items[:3]], audio=[i.audio for i in items[8:11]])
    return first, second


def test_mean_difference_of_last_positions(model, pair) -> None:
    vector = mean_difference(model, [pair[0]], [pair[1]], layers=[1, 3], data="two sounds")
    assert sorted(vector.directions) == [1, 3]
    _, first = model.run_with_cache(pair[0])
    _, second = model.run_with_cache(pair[1])
    expected = (first["resid_post", 3][:, -1] - second["resid_post", 3][:, -1]).mean(0)
    torch.testing.assert_close(vector.directions[3], expected, atol=1e-5, rtol=0)
    assert vector.provenance["data"] == "two sounds"
    assert vector.provenance["model"]["d_model"] == model.cfg.d_model


def test_principal_axis_of_differences_points_their_way(model, pair) -> None:
    vector = pca_of_differences(model, [pair[0]], [pair[1]], layers=[2])
    differences = (
        activations(model, [pair[0]], [2], "resid_post")
        - activations(model, [pair[1]], [2], "resid_post")
    )[:, 0]
    axis = vector.directions[2]
    assert float(axis.norm()) == pytest.approx(1)
    assert float(axis @ differences.mean(0)) > 0
    share = (differences @ axis).square().sum() / differences.square().sum()
    values = torch.linalg.svdvals(differences).square()
    torch.testing.assert_close(share, values[0] / values.sum(), atol=1e-4, rtol=0)


def test_attached_vector_is_added_and_gone_afterwards(model, prompt) -> None:
    direction = torch.randn(model.cfg.d_model)
    vector = SteeringVector.supplied(direction, layer=3)
    name = "blocks.3.hook_resid_post"
    _, plain = model.run_with_cache(prompt, names_filter=name)
    with vector.attach(model, coefficient=2.0):
        _, steered = model.run_with_cache(prompt, names_filter=name)
    change = (steered[name] - plain[name])[:, -1]
    torch.testing.assert_close(change, 2 * direction.expand(3, -1), atol=1e-4, rtol=0)
    assert not any(point.has_hooks() for point in model.hook_points())


def test_saved_and_loaded_with_provenance(model, pair, tmp_path) -> None:
    vector = mean_difference(model, [pair[0]], [pair[1]], layers=[0, 2], site="mlp_out")
    vector.save(tmp_path / "v.safetensors")
    loaded = SteeringVector.load(tmp_path / "v.safetensors", model)
    assert loaded.site == "mlp_out"
    assert loaded.provenance == vector.provenance
    assert all(torch.equal(loaded.directions[l], d) for l, d in vector.directions.items())


def test_the_same_vector_gives_the_same_file(tmp_path) -> None:
    """safetensors writes its metadata in an order that changes from file to file."""
    vector = SteeringVector.supplied(torch.ones(7), layer=1)
    for number in range(8):
        vector.save(tmp_path / str(number))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (SteeringVector.supplied(torch.ones(7), layer=1), "width 7"),
        (SteeringVector.supplied(torch.ones(128), layer=9), "layer 9"),
        (
            SteeringVector.supplied(torch.ones(128), layer=1, model={"n_layers": 32}),
            "n_layers 32",
        ),
        (SteeringVector.supplied(torch.ones(128), 1, "residual"), "no site is called 'residual'"),
        (SteeringVector.supplied(torch.ones(128), 1, "embed"), "takes no layer"),
        (SteeringVector.supplied(torch.ones(7), 1, "attn_out"), "width 7"),
        (SteeringVector.supplied(torch.ones(7), 1, "audio_encoder.resid_post"), "width 7"),
    ],
)
def test_refuses_a_model_of_another_shape(model, vector, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message), vector.attach(model):
        pass
    vector.save(tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=message):
        SteeringVector.load(tmp_path / "v.safetensors", model)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({}, "at least one layer"),
        ({0: torch.ones(3), 1: torch.ones(4)}, "different widths"),
        ({0: torch.tensor([1.0, float("nan")])}, "NaN"),
        ({-1: torch.ones(3)}, "count from 0"),
    ],
)
def test_refuses_directions_that_are_none(directions, message) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringVector(directions)


def test_refuses_sets_without_prompts_and_differences_without_pairs(model, pair) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        mean_difference(model, [], [pair[1]], layers=[1])
    with pytest.raises(ValueError, match="3 and 6 prompts"):
        pca_of_differences(model, [pair[0]], [pair[1], pair[1]], layers=[1])
    with pytest.raises(ValueError, match="without heads"):
        activations(model, [pair[0]], [1], "z")
