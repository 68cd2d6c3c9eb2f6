"""Attribution patching against exact patching."""

from dataclasses import replace

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute, rank_correlation

SIZES = Sizes(n_frames=10)
MODEL = hooked_model(SIZES)
LAYOUT = Layout([5, 5], [[17], [17]])
CLEAN, CORRUPTED = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
METRIC = logit_diff([7, 9], [20, 21])
HEADS = ("z", "q", "k", "v")
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", *HEADS)
ENCODER = ("audio_encoder.resid_pre", "audio_encoder.z")


def nearby(eps: float):
    """A corrupted prompt that differs from the clean one by a little noise in its sound."""
    noise = torch.randn(CLEAN.mel.shape, generator=torch.Generator().manual_seed(5))
    return replace(CLEAN, mel=CLEAN.mel + eps * noise)


def exact(corrupted, site, **options):
    heads = "each" if site.rsplit(".", 1)[-1] in (*HEADS, "pattern") else None
    return sweep(MODEL, CLEAN, corrupted, site, METRIC, heads=heads, verbose=False, **options)


def relative_error(estimated, truth):
    """Largest error of an effect, relative to the largest effect."""
    effect = truth.values - truth.base.reshape(1, *[1] * (truth.values.ndim - 2), -1)
    return float((estimated.values - truth.values).abs().max() / effect.abs().max())


EVERY = [*SITES, "pattern", "rot_k", "audio_embed", *ENCODER]


@pytest.mark.parametrize(
    ("site", "direction"), [*((site, "denoise") for site in EVERY), ("z", "noise")]
)
def test_tends_to_the_exact_effect_as_prompts_draw_near(site, direction):
    errors = []
    for eps in (0.1, 0.01):
        corrupted = nearby(eps)
        found = attribute(MODEL, CLEAN, corrupted, METRIC, sites=site, direction=direction)[site]
        heads = "each" if "head" in found.axes else None
        truth = sweep(
            MODEL, CLEAN, corrupted, site, METRIC, heads=heads, direction=direction, verbose=False
        )
        # The sweep calls its selections of audio positions groups.
        labels = {("position" if k == "group" else k): v for k, v in truth.axes.items()}
        assert found.axes == labels
        torch.testing.assert_close(found.base, truth.base, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.source, truth.source, atol=1e-5, rtol=1e-5)
        errors.append(relative_error(found, truth))
    assert errors[1] < 0.03
    assert errors[1] < errors[0]


@pytest.mark.parametrize("site", [*SITES, *ENCODER])
def test_ranks_cells_as_exact_patching_does(site):
    found = attribute(MODEL, CLEAN, nearby(0.1), METRIC, sites=site)[site]
    correlation = rank_correlation(found, exact(nearby(0.1), site))
    print(f"{site}: rank correlation {correlation:.3f}")
    assert correlation > 0.9


def test_one_pass_serves_all_sites():
    together = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites=SITES)
    for site in SITES:
        alone = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites=site)[site]
        torch.testing.assert_close(together[site].values, alone.values)


@pytest.mark.parametrize("site", ["resid_pre", "z", "v", "audio_encoder.resid_pre"])
def test_gradients_along_activations_add_up_to_patching_the_whole_layer(site):
    found = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites=site, steps=20)[site]
    effects = (found.values - found.base[:, None, None]).flatten(2, -2).sum(2)[0]
    whole = exact(CORRUPTED, site, positions="all")
    expected = whole.values[0] if "head" not in whole.axes else None
    if expected is None:  # all heads of a layer at once
        expected = sweep(
            MODEL, CLEAN, CORRUPTED, site, METRIC, positions="all", verbose=False
        ).values[0]
    torch.testing.assert_close(effects, expected - whole.base[0], atol=0.02, rtol=0.01)


def test_gradients_along_inputs_add_up_to_the_difference_of_the_runs():
    found = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites="resid_pre", steps=20, path="inputs")[
        "resid_pre"
    ]
    effects = (found.values - found.base[:, None, None])[0, 0].sum(0)
    torch.testing.assert_close(effects, (found.source - found.base)[0], atol=0.02, rtol=0.01)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out"])
def test_integrated_gradients_come_closer_on_average(site):
    errors = {1: 0.0, 5: 0.0}
    for seed in range(4):
        model = hooked_model(SIZES, seed)
        clean, corrupted = (make_prompt(SIZES, LAYOUT, 2 * seed + i) for i in (0, 1))
        truth = sweep(model, clean, corrupted, site, METRIC, verbose=False).values
        for steps in errors:
            found = attribute(model, clean, corrupted, METRIC, sites=site, steps=steps)[site]
            errors[steps] += float((found.values - truth).abs().mean())
    assert errors[5] < 0.8 * errors[1]


def test_rows_of_a_batch_are_attributed_alone():
    batch = attribute(MODEL, CLEAN, CORRUPTED, logit_diff(7, 20), sites="z", steps=2)["z"]
    for row in range(2):
        one = (make_prompt_row(prompt, row) for prompt in (CLEAN, CORRUPTED))
        alone = attribute(MODEL, *one, logit_diff(7, 20), sites="z", steps=2)["z"]
        torch.testing.assert_close(alone.values[..., 0], batch.values[..., row])


def make_prompt_row(prompt, row):
    rows = slice(row, row + 1)
    names = ("tokens", "attention_mask", "audio_mask", "mel", "mel_lengths")
    return replace(prompt, **{name: getattr(prompt, name)[rows] for name in names})


def test_padding_has_no_effect():
    layout = Layout([7, 5], [[17], [17]])
    clean, corrupted = make_prompt(SIZES, layout, 1), make_prompt(SIZES, layout, 2)
    found = attribute(MODEL, clean, corrupted, METRIC, sites="resid_pre")["resid_pre"]
    assert (found.values[0, :, :2, 1] == found.base[0, 1]).all()


def test_needs_no_gradient_context_and_leaves_nothing_behind():
    with torch.no_grad():
        quiet = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites="z")["z"]
    assert torch.equal(
        quiet.values, attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites="z")["z"].values
    )
    assert all(weight.grad is None for weight in MODEL.parameters())
    assert not any(point.has_hooks() for point in MODEL.hook_points())


def test_result_is_a_table_like_a_sweeps():
    table = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites="k")["k"].to_dataframe()
    assert list(table.columns) == [
        *["metric", "layer", "position", "head", "example", "value", "recovery"]
    ]
    assert len(table) == 2 * CLEAN.tokens.shape[1] * SIZES.kv_heads * 2


def nan_metric(logits):
    return logits[:, 0] * torch.nan


def argmax_metric(logits):
    return logits.argmax(-1).float()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupted": make_prompt(SIZES, Layout([5, 5], [[9], [9]]))}, "Cut or pad the longer"),
        ({"corrupted": make_prompt(SIZES, Layout([5, 5], [[13], [17]]))}, "differ in their"),
        ({"metric": nan_metric}, r"'nan_metric' is NaN in rows \[0, 1\]"),
        ({"metric": argmax_metric}, "'argmax_metric' has no gradient"),
        ({"metric": lambda logits: logits.sum()}, "one number a row"),
        ({"sites": "residue"}, "there are audio_embed, resid_pre"),
        ({"sites": "attn_scores"}, "cannot attribute"),
        ({"direction": "up"}, "'denoise' or 'noise'"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2, "path": "scenic"}, "'activations' and 'inputs'"),
    ],
)
def test_refuses(changes, message):
    arguments = {"clean": CLEAN, "corrupted": CORRUPTED, "metric": METRIC} | changes
    with pytest.raises(ValueError, match=message):
        attribute(MODEL, **arguments)
    assert not any(point.has_hooks() for point in MODEL.hook_points())


def test_refuses_sounds_it_cannot_line_up():
    for layout in (Layout([7, 5], [[17], [17]]), Layout([5], [[]])):
        prompt = make_prompt(SIZES, layout)
        with pytest.raises(ValueError, match="audio_embed needs audio"):
            attribute(MODEL, prompt, prompt, logit_diff(7, 20), sites="audio_embed")
    prompt = make_prompt(SIZES, Layout([5], [[9, 12]]))
    with pytest.raises(ValueError, match="2 clips"):
        attribute(MODEL, prompt, prompt, logit_diff(7, 20), sites="audio_encoder.z")


def test_refuses_inference_mode_and_hooks():
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        attribute(MODEL, CLEAN, CORRUPTED, METRIC)
    with (
        MODEL.hooks([("hook_embed", lambda x, hook: x)]),
        pytest.raises(ValueError, match="hooks are set"),
    ):
        attribute(MODEL, CLEAN, CORRUPTED, METRIC)


@pytest.mark.parametrize("site", ["mlp_post", "audio_encoder.mlp_post"])
def test_effects_of_neurons_are_the_derivative_of_exact_patches(site):
    """Exact effects over the size of the difference between the prompts tend to the gradient's."""
    errors = []
    for eps in (0.1, 0.01):
        runs = MODEL, CLEAN, nearby(eps)
        truth = sweep(*runs, site, METRIC, neurons=[-1], verbose=False)
        found = attribute(*runs, METRIC, sites=site, neurons=[-1])[site]
        assert found.axes == truth.axes
        errors.append(relative_error(found, truth))
    assert errors[1] < 0.03
    assert errors[1] < errors[0]


@pytest.mark.parametrize("steps", [1, 2])
def test_effects_of_neurons_add_up_to_those_of_their_groups_and_positions(steps):
    def effects(**neurons):
        found = attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites="mlp_post", steps=steps, **neurons)
        values = found["mlp_post"].values
        return values - found["mlp_post"].base.reshape(1, *[1] * (values.ndim - 2), -1)

    each = effects(neurons="each")
    assert each.shape[3] == SIZES.d_mlp
    torch.testing.assert_close(each.sum(3), effects(), atol=1e-5, rtol=1e-4)
    two = effects(neurons={"some": slice(0, 9), "two": [9, 3]})
    expected = torch.stack([each[:, :, :, :9].sum(3), each[:, :, :, [9, 3]].sum(3)], dim=3)
    torch.testing.assert_close(two, expected, atol=1e-5, rtol=1e-4)


def test_neurons_are_refused_with_a_site_that_has_none():
    with pytest.raises(ValueError, match="'z' has no neurons"):
        attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites=["mlp_post", "z"], neurons="each")
