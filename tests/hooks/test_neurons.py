"""Neurons chosen in patch, ablate and scale, against edits of the tensors by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import fingerprint, hooks

SIZES = Sizes()
MODEL = hooked_model(SIZES)
LAYOUT = Layout([7, 5], [[23], [9, 12]])
RUN, OTHER = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
SITES = ("mlp_post", "mlp_pre", "mlp_pre_linear")
ENCODER_SITES = ("audio_encoder.mlp_post", "audio_encoder.mlp_pre")
EVERY = (*SITES, *ENCODER_SITES)
with torch.no_grad():
    PLAIN, BEFORE = MODEL.run_with_cache(RUN, names_filter="blocks.0.mlp.hook_post")
    _, SOURCE = MODEL.run_with_cache(OTHER)


def run(fwd_hooks, model=MODEL):
    with torch.no_grad():
        return model.run_with_hooks(RUN, fwd_hooks=fwd_hooks)


def by_hand(site, change, layer=1):
    """The logits after a change in place of the activation at one hook point."""
    name = hooks.hook_names(site, layer)[0]

    def function(activation, hook):
        change(activation, SOURCE[name])

    return run([(name, function)])


def width(site):
    return SIZES.audio_d_mlp if site.startswith("audio_encoder") else SIZES.d_mlp


def mask_of(*neurons, n=SIZES.d_mlp):
    return torch.tensor([i in neurons for i in range(n)])


@pytest.mark.parametrize("site", EVERY)
def test_patch_puts_in_the_neurons_of_the_source(site):
    def change(activation, source):
        activation[:, :, [0, 5]] = source[:, :, [0, 5]]

    found = run(hooks.patch(site, layer=1, source=SOURCE, neurons=[0, 5]))
    assert torch.equal(found, by_hand(site, change))
    assert not torch.equal(found, PLAIN)


@pytest.mark.parametrize("site", EVERY)
def test_scale_multiplies_the_neurons(site):
    def change(activation, source):
        activation[:, 3:5, -1] *= 2.5

    found = run(hooks.scale(site, layer=1, factor=2.5, neurons=-1, positions=slice(3, 5)))
    assert torch.equal(found, by_hand(site, change))
    assert not torch.equal(found, PLAIN)


@pytest.mark.parametrize(
    ("neurons", "same"),
    [
        (3, [3]),
        (range(2, 5), [2, 3, 4]),
        (slice(None, None, 20), [0, 20, 40]),
        (slice(-2, None), [42, 43]),
        (torch.tensor([1, -1]), [1, 43]),
        (mask_of(4, 9), [4, 9]),
        (mask_of(4, 9).tolist(), [4, 9]),
        (mask_of(4, 9).numpy(), [4, 9]),
    ],
)
def test_every_spelling_selects_the_same(neurons, same):
    def change(activation, source):
        activation[:, :, same] = 0

    found = run(hooks.ablate("mlp_post", layer=1, neurons=neurons))
    assert torch.equal(found, by_hand("mlp_post", change))


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_neurons_are_ablated_as_all_are(how):
    everywhere, some = {}, {}
    for kept, neurons in ((everywhere, None), (some, [7, 8])):
        ablation = hooks.ablate("mlp_post", how=how, source=SOURCE, layer=0, neurons=neurons)
        run(ablation + hooks.capture(kept, "mlp_post", layer=0))
    before, (all_ablated,), (after,) = BEFORE["mlp_post", 0], everywhere.values(), some.values()
    assert torch.equal(after[..., [7, 8]], all_ablated[..., [7, 8]])
    rest = ~mask_of(7, 8)
    assert torch.equal(after[..., rest], before[..., rest])


def test_scale_multiplies_heads():
    def change(activation, source):
        activation[:, :, 2] *= -1

    assert torch.equal(run(hooks.scale("z", heads=[(1, 2)], factor=-1.0)), by_hand("z", change))


@settings(max_examples=10)
@given(
    site=st.sampled_from((*EVERY, "z", "resid_pre", "mlp_out", "pattern", "audio_encoder.z")),
    layer=st.sampled_from([None, 0, -1]),
    neurons=st.lists(st.integers(-20, 20), min_size=1, max_size=9),
)
def test_laws_of_scale(site, layer, neurons):
    chosen = {"neurons": neurons} if site in EVERY else {}
    zero = run(hooks.scale(site, layer=layer, factor=0.0, **chosen))
    assert torch.equal(zero, run(hooks.ablate(site, layer=layer, **chosen)))
    # A hook that changes nothing, because where there is one patterns are made and padding is run.
    looking = [(name, lambda activation, hook: None) for name in hooks.hook_names(site, layer)]
    assert torch.equal(run(hooks.scale(site, layer=layer, factor=1.0, **chosen)), run(looking))


@settings(max_examples=6)
@given(site=st.sampled_from(EVERY), layer=st.sampled_from([None, 0, -1]), data=st.data())
def test_patches_of_parts_make_the_patch_of_all(site, layer, data):
    def patch(neurons=None):
        return hooks.patch(site, layer=layer, source=SOURCE, neurons=neurons)

    n = width(site)
    part = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    rest = [not chosen for chosen in part]
    whole = run(patch())
    assert torch.equal(run(patch(slice(None))), whole)
    if any(rest):
        assert torch.equal(run(patch(part) + patch(rest)), whole)


def test_neurons_reach_generated_tokens():
    """Each step's activation is edited, as it is when the whole sequence is run again."""
    prompt = make_prompt(SIZES, Layout([7], [[23]]), 1)
    options = {"stop_at_eos": False, "return_type": "tokens", "verbose": False}
    with MODEL.hooks(hooks.scale("mlp_post", factor=-2.0, neurons=slice(0, 30))):
        cached = MODEL.generate(prompt, 5, **options)
        whole = MODEL.generate(prompt, 5, use_past_kv_cache=False, **options)
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, MODEL.generate(prompt, 5, **options))


def test_facts_tell_neurons_and_factors_apart():
    made = [
        hooks.scale("mlp_post", factor=factor, neurons=neurons)
        for factor in (1.5, 2.0)
        for neurons in (None, [1], [2], slice(0, 2))
    ]
    assert len({fingerprint.of_hooks(one) for one in made}) == len(made)
    assert fingerprint.of_hooks(made[1]) == fingerprint.of_hooks(
        hooks.scale("mlp_post", factor=1.5, neurons=torch.tensor(1))
    )


def test_facts_without_neurons_are_those_of_before_they_could_be_chosen():
    (_, function), *_ = hooks.ablate("mlp_post", layer=0)
    assert "neurons" not in function.facts


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("z", r"'z' has no neurons: it has heads \(heads=\)"),
        ("mlp_out", "'mlp_out' has no neurons: it is the sum of what the neurons write"),
        (
            "resid_post",
            "only the inner layer of an MLP.*chosen at mlp_pre, mlp_pre_linear, mlp_post",
        ),
        ("audio_encoder.resid_pre", "'audio_encoder.resid_pre' has no neurons"),
        ("audio_embed", "'audio_embed' has no neurons"),
    ],
)
def test_sites_without_neurons_are_refused(site, message):
    for make in (
        lambda: hooks.scale(site, factor=2.0, neurons=0),
        lambda: hooks.ablate(site, neurons=0),
        lambda: hooks.patch(site, source=SOURCE, neurons=0),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([], "an empty selection of neurons"),
        (mask_of(), "the mask selects no neurons"),
        ("each", "neurons must be integers, a slice or a boolean mask"),
        ([0.5], "neurons must be integers"),
        ([[1, 2]], "neurons must be integers"),
        ([(0, 1), 2], "neurons must be integers"),
    ],
)
def test_refuses_when_made(neurons, message):
    with pytest.raises(ValueError, match=message):
        hooks.ablate("mlp_post", neurons=neurons)


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        (44, "neuron 44 does not exist: blocks.0.mlp.hook_post has neurons 0 to 43"),
        ([0, -45], "neuron -45 does not exist"),
        (slice(44, None), "selects none of the 44 neurons"),
        (torch.ones(43).bool(), "a mask of 43 neurons where there are 44"),
    ],
)
def test_refuses_when_run_and_leaves_no_hook(neurons, message):
    with pytest.raises(ValueError, match=message):
        run(hooks.ablate("mlp_post", neurons=neurons))
    assert torch.equal(run([]), PLAIN)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_scale_refuses_what_is_no_number(factor):
    with pytest.raises(ValueError, match="finite"):
        hooks.scale("mlp_post", factor=factor)


def test_scale_refuses_scores():
    with pytest.raises(ValueError, match="scale_attention multiplies"):
        hooks.scale("attn_scores", factor=2.0)


def test_composes_with_others_in_order():
    doubled = hooks.scale("mlp_post", layer=0, factor=2.0, neurons=3)
    patched = hooks.patch("mlp_post", layer=0, source=SOURCE, neurons=3)
    later_patch, later_scale = run(doubled + patched), run(patched + doubled)
    assert torch.equal(later_patch, run(patched))
    assert not torch.equal(later_scale, later_patch)
