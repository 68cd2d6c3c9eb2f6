"""Patching between prompts of unequal length: group by group against a loop over positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt, with_sound_of

from lens_audio import hooks
from lens_audio.analysis.circuit import Circuit, CircuitTest, circuit_edges
from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching import positions_by, sweep, sweep_steps
from lens_audio.analysis.patching.attribution import attribute, rank_correlation
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.data import Pair, pair

SIZES = Sizes()
MODEL = hooked_model(SIZES)
METRIC = logit_diff(7, 20)
# Other numbers of tokens of sound and of text, in either row; the shorter row is padded.
CLEAN = make_prompt(SIZES, Layout([6, 9], [[31], [35]]), 1)
CORRUPTED = make_prompt(SIZES, Layout([8, 9], [[23], [26]]), 2)
PAIR = pair(CLEAN, CORRUPTED, fit="group", window=0.08)
LAST_WINDOW = PAIR.windows[-1]
EQUAL = make_prompt(SIZES, Layout([6, 6], [[31], [31]]), 1)
EQUAL_OTHER = with_sound_of(EQUAL, make_prompt(SIZES, Layout([6, 6], [[31], [31]]), 2))


def run(pair, *args, **options):
    return sweep(MODEL, pair, *args, metric=METRIC, verbose=False, **options)


def lined_up(source, groups, n_positions):
    """[row, pos, …] of a source run at the base's positions, counted one by one."""
    out = torch.zeros(len(source), n_positions, *source.shape[2:])
    for from_, to in groups:
        for row in range(len(source)):
            theirs = [p for p in range(from_.shape[1]) if from_[row, p]]
            ours = [p for p in range(to.shape[1]) if to[row, p]]
            for number, place in enumerate(ours):
                if len(ours) == len(theirs):
                    out[row, place] = source[row, theirs[number]]
                else:
                    out[row, place] = sum(source[row, p] for p in theirs) / len(theirs)
    return out


def runs_of(direction):
    """The base prompt, the source prompt, and their groups as (source's, base's) positions."""
    if direction == "denoise":
        return CORRUPTED, CLEAN, {n: (g.clean, g.corrupted) for n, g in PAIR.groups.items()}
    return CLEAN, CORRUPTED, {n: (g.corrupted, g.clean) for n, g in PAIR.groups.items()}


@torch.no_grad()
def lined_up_cache(direction):
    base, source, groups = runs_of(direction)
    _, cache = MODEL.run_with_cache(source)
    names = [name for name in cache if name.endswith(("hook_z", "resid_pre", "hook_attn_out"))]
    return {
        name: lined_up(cache[name], groups.values(), base.tokens.shape[1])
        for name in names
        if not name.startswith("audio")
    }


@pytest.mark.parametrize(("site", "direction"), [("resid_pre", "denoise"), ("z", "noise")])
@torch.no_grad()
def test_a_group_takes_the_same_groups_activations_or_their_mean(site, direction):
    base, _, groups = runs_of(direction)
    source = lined_up_cache(direction)
    found = run(PAIR, site=site, direction=direction)
    assert found.axes["group"] == list(PAIR.groups)
    for layer in range(SIZES.n_layers):
        for number, (_, places) in enumerate(groups.values()):
            patch = hooks.patch(site, layer=layer, source=source, positions=places)
            expected = METRIC(MODEL.run_with_hooks(base, fwd_hooks=patch)[:, -1])
            got = found.values[0, layer, number]
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    site=st.sampled_from(["resid_pre", "mlp_out", "q", "v", "z", "audio_encoder.resid_pre",
                          "audio_encoder.z", "audio_embed"]),
    frames=st.lists(st.integers(8, 24), min_size=6, max_size=6),
    direction=st.sampled_from(["denoise", "noise"]),
    by_head=st.booleans(),
    n_rows=st.integers(1, 2),
)  # fmt: skip
def test_fast_engine_agrees_with_naive(seed, site, frames, direction, by_head, n_rows):
    sizes = Sizes.random(seed)
    rows = range(n_rows)
    texts = [[4 + (seed // 7 ** (row + side)) % 5 for row in rows] for side in (0, 3)]
    prompts = [
        make_prompt(sizes, Layout(texts[side], [[frames[2 * row + side]] for row in rows]), seed)
        for side in (0, 1)
    ]
    unequal = pair(*prompts, fit="group", window=0.1)
    heads = "each" if by_head and site.endswith(("q", "v", "z")) else None
    model = hooked_model(sizes, seed)
    fast, naive = (
        sweep(model, unequal, site=site, metric=logit_diff(5, 7), heads=heads,
              direction=direction, engine=engine, verbose=False)
        for engine in ("fast", "naive")
    )  # fmt: skip
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_window_of_the_encoder_takes_the_mean_of_its_frames():
    group = PAIR.frames[LAST_WINDOW]
    name = "audio_encoder.blocks.1.hook_resid_pre"
    _, cache = MODEL.run_with_cache(CLEAN, names_filter=name)
    mean = torch.stack([cache[name][row][group.clean[row]].mean(0) for row in range(2)])

    def put(resid, hook):
        return torch.where(group.corrupted[..., None], mean[:, None], resid)

    expected = METRIC(MODEL.run_with_hooks(CORRUPTED, fwd_hooks=[(name, put)])[:, -1])
    found = run(PAIR, site="audio_encoder.resid_pre", positions=LAST_WINDOW)
    torch.testing.assert_close(found.values[0, 1], expected, atol=1e-4, rtol=0)


def test_the_last_position_after_all_layers_carries_everything():
    found = run(PAIR, site="resid_post", positions="last")
    torch.testing.assert_close(found.values[0, -1], found.source[0], atol=1e-4, rtol=0)


def test_swapping_the_prompts_is_swapping_the_direction():
    swapped = pair(CORRUPTED, CLEAN, fit="group", window=0.08)
    noise, denoise = run(PAIR, site="v", direction="noise"), run(swapped, site="v")
    torch.testing.assert_close(noise.values, denoise.values)
    torch.testing.assert_close(noise.source, denoise.source)


@pytest.mark.parametrize("site", ["resid_pre", "z", "audio_encoder.resid_post"])
def test_groups_of_equal_prompts_are_patched_as_ever(site):
    equal = pair(EQUAL, EQUAL_OTHER, fit="group", window=0.08)
    positions, _ = positions_by("window", site, EQUAL, 0.08)
    found = run(equal, site=site, positions=equal.windows)
    expected = sweep(MODEL, EQUAL, EQUAL_OTHER, site, METRIC, positions=positions, verbose=False)
    assert found.axes == expected.axes
    assert found.about["averaged"] == []
    torch.testing.assert_close(found.values, expected.values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["all", "audio", "text", "last"])
def test_the_usual_groups_mean_what_they_do_in_prompts(name):
    equal = pair(EQUAL, EQUAL_OTHER, fit="group", window=0.08)
    found = run(equal, site="resid_mid", positions=name)
    expected = sweep(MODEL, EQUAL, EQUAL_OTHER, "resid_mid", METRIC, positions=name)
    assert found.axes == expected.axes
    torch.testing.assert_close(found.values, expected.values, atol=1e-4, rtol=0)


def test_cells_are_the_groups_that_are_named():
    some = run(PAIR, site="z", positions=["last", LAST_WINDOW])
    every = run(PAIR, site="z").to_dataframe().set_index(["layer", "group", "example"])["value"]
    for row in some.to_dataframe().itertuples():
        assert row.value == pytest.approx(every[row.layer, row.group, row.example], abs=1e-5)
    union = run(PAIR, site="z", positions={"sound": PAIR.windows})
    whole = run(PAIR, site="z", positions="audio")
    torch.testing.assert_close(union.values[:, :, 0], whole.values, atol=1e-5, rtol=0)


def test_a_result_and_its_figure_say_which_groups_were_averaged():
    found = run(PAIR, site="resid_pre")
    assert found.about["averaged"] == [LAST_WINDOW, "text after"]
    (note,) = (a.text for a in found.plot().layout.annotations)
    assert note == f"mean of a group of unequal length: {LAST_WINDOW}, text after"


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_pair_of_one_shape_is_its_two_prompts(fit):
    same = Pair(EQUAL, EQUAL_OTHER, fit)
    found = run(same, site="z", heads="each", positions="last")
    expected = sweep(MODEL, EQUAL, EQUAL_OTHER, "z", METRIC, heads="each", positions="last")
    assert torch.equal(found.values, expected.values)
    assert found.axes == expected.axes
    assert found.about["fit"] == fit


def test_a_sweep_of_a_pair_in_steps_is_the_same():
    *_, (done, total, result) = sweep_steps(MODEL, PAIR, site="z", metric=METRIC)
    assert done == total
    torch.testing.assert_close(result.values, run(PAIR, site="z").values)


# Attribution


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_attribution_is_the_gradient_times_the_difference_summed_by_group(direction):
    base, _, groups = runs_of(direction)
    source, name = lined_up_cache(direction), "blocks.1.attn.hook_z"
    kept = []

    def keep(z, hook):
        kept.append(z.detach().requires_grad_())
        return kept[0]

    METRIC(MODEL.run_with_hooks(base, fwd_hooks=[(name, keep)])[:, -1]).sum().backward()
    effects = ((source[name] - kept[0]) * kept[0].grad).sum(-1).detach()
    found = attribute(MODEL, PAIR, metric=METRIC, sites="z", direction=direction)["z"]
    assert found.axes["group"] == list(groups)
    for number, (_, places) in enumerate(groups.values()):
        expected = found.base[0] + torch.stack([effects[r][places[r]].sum(0) for r in (0, 1)], -1)
        got = found.values[0, 1, number]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("site", ["z", "audio_encoder.resid_pre"])
def test_gradients_along_activations_add_up_to_patching_all_groups(site):
    found = attribute(MODEL, PAIR, metric=METRIC, sites=site, steps=6)[site]
    effects = (found.values - found.base[:, None, None]).flatten(2, -2).sum(2)[0]
    whole = run(PAIR, site=site, positions="all")
    torch.testing.assert_close(effects, whole.values[0] - whole.base[0], atol=0.02, rtol=0.01)


def test_attribution_has_the_axes_of_the_sweep():
    for site in ("audio_embed", "audio_encoder.z", "k"):
        found = attribute(MODEL, PAIR, metric=METRIC, sites=site)[site]
        exact = run(PAIR, site=site, heads="each" if "head" in found.axes else None)
        assert found.axes == exact.axes
        assert found.about["averaged"] == exact.about["averaged"]
        assert rank_correlation(found, exact) > 0.3


# Path patching and circuits


@pytest.mark.parametrize("positions", ["all", "last", LAST_WINDOW])
@pytest.mark.parametrize("receivers", ["logits", [(1, 2)]])
@torch.no_grad()
def test_a_path_carries_what_the_group_had_in_the_source_run(receivers, positions):
    base, _, groups = runs_of("denoise")
    source, (_, cache) = lined_up_cache("denoise"), MODEL.run_with_cache(base)
    chosen = list(groups.values()) if positions == "all" else [groups[positions]]
    places = torch.stack([to for _, to in chosen]).any(0)
    direct = hooks.patch("z", source=cache) + hooks.patch(
        "z", source=source, heads=[(0, 1)], positions=places
    )
    heard = {}
    if receivers == "logits":
        expected = MODEL.run_with_hooks(base, fwd_hooks=direct)
    else:
        MODEL.run_with_hooks(base, fwd_hooks=direct + hooks.capture(heard, "q", layer=1))
        told = hooks.patch("q", heads=receivers, source=heard)
        expected = MODEL.run_with_hooks(base, fwd_hooks=told)
    found = path_patch(
        MODEL, PAIR, metric=METRIC, senders=[(0, 1)], receivers=receivers, positions=positions
    )
    torch.testing.assert_close(found.values[0, 0], METRIC(expected[:, -1]), atol=1e-4, rtol=0)
    means = {"all": [LAST_WINDOW, "text after"], LAST_WINDOW: [LAST_WINDOW], "last": []}
    assert found.about["averaged"] == means[positions]


@torch.no_grad()
def test_a_corrupted_head_of_a_circuit_has_the_z_of_the_same_group():
    source, test = lined_up_cache("noise"), CircuitTest(MODEL, PAIR, metric=METRIC)
    heads = [(0, 1), (1, 0), (1, 3)]
    patches = hooks.patch("z", heads=heads, source=source)
    expected = METRIC(MODEL.run_with_hooks(CLEAN, fwd_hooks=patches)[:, -1])
    torch.testing.assert_close(test.without(heads).metric, expected, atol=1e-4, rtol=0)
    corrupting = test.corrupting(heads, keep=False)
    again = METRIC(MODEL.run_with_hooks(CLEAN, fwd_hooks=corrupting)[:, -1])
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)


def test_the_edges_of_a_circuit_take_a_pair():
    circuit = Circuit.of([(0, 1), (1, 2)])
    edges = circuit_edges(MODEL, PAIR, circuit=circuit, metric=METRIC)
    expected = path_patch(MODEL, PAIR, metric=METRIC, senders=[(0, 1)], verbose=False).recovery()
    found = edges.set_index(["sender", "receiver", "input"]).recovery[(0, 1), "logits", "resid"]
    assert found == pytest.approx(float(expected[0]), abs=1e-4)


# What is refused


@pytest.mark.parametrize(
    "site", ["pattern", "attn_scores", "rot_q", "rot_k", "audio_encoder.pattern"]
)
def test_sites_that_know_their_own_positions_have_no_group_patches(site):
    with pytest.raises(ValueError, match=f"'{site}' has no 'group' patches: i"):
        run(PAIR, site=site)


def test_attribution_has_no_groups_of_patterns():
    with pytest.raises(ValueError, match="'pattern' has no 'group' patches"):
        attribute(MODEL, PAIR, metric=METRIC, sites="pattern")


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("each", "do not correspond one by one, so there is no 'each'"),
        (5, "position 5 of one prompt is not position 5 of the other"),
        ([3, 4], "are names of its groups"),
        (slice(3), "are names of its groups"),
        (CLEAN.audio_mask, "are names of its groups"),
        ([], "an empty selection of groups"),
        ({}, "no groups"),
        ("middle", "no group is called 'middle'; there are all, text, audio, text before"),
        ({"a": "middle"}, "no group is called 'middle'"),
    ],
)
def test_positions_of_a_group_pair_are_names(positions, message):
    with pytest.raises(ValueError, match=message):
        run(PAIR, site="resid_pre", positions=positions)


def test_the_encoder_and_what_it_writes_have_windows_alone():
    with pytest.raises(ValueError, match=r"no group is called 'last'; there are all, 0\.00"):
        run(PAIR, site="audio_encoder.resid_pre", positions="last")
    with pytest.raises(ValueError, match="at audio positions only"):
        run(PAIR, site="audio_embed", positions="text")


@pytest.mark.parametrize(
    "call",
    [
        lambda: sweep(MODEL, CLEAN, CORRUPTED, "resid_pre", METRIC),
        lambda: attribute(MODEL, CLEAN, CORRUPTED, METRIC),
        lambda: path_patch(MODEL, CLEAN, CORRUPTED, METRIC),
        lambda: CircuitTest(MODEL, CLEAN, CORRUPTED, METRIC),
    ],
)
def test_unequal_prompts_are_shown_the_way_to_a_pair(call):
    with pytest.raises(ValueError, match=r"positions do not correspond.*la\.data\.pair"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep(MODEL, PAIR, CORRUPTED, "z", METRIC), "a pair brings its corrupted prompt"),
        (lambda: sweep(MODEL, CLEAN, site="z", metric=METRIC), "a clean prompt alone"),
        (lambda: sweep(MODEL, PAIR, metric=METRIC), "no site was given"),
        (lambda: sweep(MODEL, PAIR), "no site and no metric was given"),
        (lambda: attribute(MODEL, PAIR), "no metric was given"),
        (lambda: path_patch(MODEL, PAIR), "no metric was given"),
        (lambda: CircuitTest(MODEL, PAIR), "no metric was given"),
        (lambda: circuit_edges(MODEL, PAIR, metric=METRIC), "no circuit was given"),
    ],
)
def test_a_call_that_lacks_something_says_what(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_padding_on_the_right_is_refused_in_a_pair_too():
    layout = Layout([6, 9], [[31], [31]], padding_side="right")
    padded = make_prompt(SIZES, layout)
    with pytest.raises(ValueError, match="pad on the left"):
        run(pair(CLEAN, padded, fit="group"), site="z")
