"""Sweeps over neurons: both engines agree, and cells are what hooks do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt, with_sound_of

from lens_audio import fingerprint, hooks
from lens_audio.analysis import metrics
from lens_audio.analysis.patching import neuron_blocks, sweep
from lens_audio.analysis.patching.cells import Cell

SIZES = Sizes()
MODEL = hooked_model(SIZES)
LOGIT_DIFF = metrics.logit_diff(5, 7)
CLEAN = make_prompt(SIZES, Layout([6, 9], [[31], [31]]), 0)
CORRUPTED = with_sound_of(CLEAN, make_prompt(SIZES, Layout([6, 9], [[31], [31]]), 1))
NEURON_SITES = ["mlp_post", "mlp_pre", "mlp_pre_linear", "audio_encoder.mlp_post"]


def swept(site="mlp_post", neurons="each", **options):
    options = {"positions": "all", "verbose": False, **options}
    return sweep(MODEL, CLEAN, CORRUPTED, site, LOGIT_DIFF, neurons=neurons, **options)


@settings(max_examples=8)
@given(
    site=st.sampled_from(NEURON_SITES),
    positions=st.sampled_from(["all", {"some": [7, 8], "other": slice(9, 12)}]),
    neurons=st.one_of(
        st.lists(st.integers(-30, 30), min_size=1, max_size=2),
        st.just({"low": slice(0, 20), "two": [3, -1]}),
    ),
    direction=st.sampled_from(["denoise", "noise"]),
    batch_tokens=st.sampled_from([1, 60, None]),
)
def test_engines_agree(site, positions, neurons, direction, batch_tokens):
    options = {"positions": positions, "direction": direction, "layers": [-1]}
    fast = swept(site, neurons, batch_tokens=batch_tokens, **options)
    naive = swept(site, neurons, engine="naive", **options)
    assert fast.axes == naive.axes
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)


def test_cells_are_what_hooks_do():
    result = swept(neurons={"two": [3, -1], "block": slice(0, 20)}, layers=[1], positions="last")
    with torch.no_grad():
        _, source = MODEL.run_with_cache(CLEAN)
        for i, neurons in enumerate(([3, -1], range(20))):
            patch = hooks.patch(
                "mlp_post", layer=1, source=source, neurons=neurons, positions="last"
            )
            expected = LOGIT_DIFF(MODEL.run_with_hooks(CORRUPTED, fwd_hooks=patch)[:, -1])
            torch.testing.assert_close(result.values[0, 0, i], expected, atol=1e-4, rtol=0)


def test_one_block_of_all_neurons_is_the_site():
    whole = swept(neurons=None)
    blocks = swept(neurons=neuron_blocks(MODEL, SIZES.d_mlp))
    torch.testing.assert_close(blocks.values[:, :, 0], whole.values, atol=1e-5, rtol=0)


def test_each_neuron_has_a_row_in_the_table_and_a_column_in_the_figure():
    result = swept(neurons=range(3))
    assert repr(result).startswith("PatchingResult(mlp_post: 2 layers x 3 neurons, 2 examples")
    assert list(result.to_dataframe()["neuron"].unique()) == [0, 1, 2]
    assert result.plot().data[0].z.shape == (2, 3)


def test_numbers_make_cells_in_the_order_given():
    result, everyone = swept(neurons=[5, -1, 2], layers=[0]), swept(layers=[0])
    assert result.axes["neuron"] == ["5", "43", "2"]
    assert everyone.axes["neuron"] == [str(neuron) for neuron in range(44)]
    expected = everyone.values[:, :, [5, 43, 2]]
    torch.testing.assert_close(result.values, expected, atol=1e-5, rtol=0)


def test_blocks_cover_all_neurons_once():
    blocks = neuron_blocks(MODEL, 20)
    assert list(blocks) == ["0-19", "20-39", "40-43"]
    assert [neuron for block in blocks.values() for neuron in block] == list(range(44))
    encoder = neuron_blocks(MODEL, 20, "audio_encoder.mlp_post")
    assert list(encoder) == ["0-19", "20-35"]
    assert "neuron group" in swept(neurons=blocks, layers=[0]).axes


@pytest.mark.parametrize(
    ("site", "neurons", "message"),
    [
        ("z", "each", "'z' has no neurons: it has heads"),
        ("mlp_out", [0], "the sum of what the neurons write"),
        ("mlp_post", [44], "neuron 44 does not exist: 'mlp_post' has neurons 0 to 43"),
        ("audio_encoder.mlp_post", [36], "neurons 0 to 35"),
        ("mlp_post", [], "an empty selection of neurons"),
        ("mlp_post", {}, "no groups of neurons"),
        ("mlp_post", {"none": []}, "an empty selection of neurons"),
        ("mlp_post", "all", "neurons must be integers"),
    ],
)
def test_refuses(site, neurons, message):
    with pytest.raises(ValueError, match=message):
        swept(site, neurons)


def test_blocks_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="at least 1 neuron, not 0"):
        neuron_blocks(MODEL, 0)
    with pytest.raises(ValueError, match="has no neurons"):
        neuron_blocks(MODEL, 4, "resid_pre")


def test_cells_without_neurons_are_told_as_before_neurons_could_be_chosen():
    mask = torch.tensor([[True, False]])
    before = {"index": (0, 1), "layer": 0, "positions": mask, "head": 3}
    assert fingerprint.of_request([Cell((0, 1), 0, mask, 3)]) == fingerprint.of_request([before])
    two = [Cell((0, 1), 0, mask, None, neurons) for neurons in ((1,), (2,))]
    assert fingerprint.of_request(two[:1]) != fingerprint.of_request(two[1:])
