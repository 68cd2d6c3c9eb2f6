"""A place that a user writes is the same for hooks, sweeps, attribution, paths, circuits and lenses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt, with_sound_of

from lens_audio import hooks
from lens_audio.analysis import audio_attention, head_attribution_by_source, metrics
from lens_audio.analysis.circuit import Circuit, CircuitTest
from lens_audio.analysis.logit_lens import logit_lens
from lens_audio.analysis.patching import positions_by, sweep
from lens_audio.analysis.patching.attribution import attribute
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.analysis.patching.positions import sweep_masks
from lens_audio.sites import (
    ROOT_SITES,
    SITES,
    Site,
    check_positions,
    heads_by_layer,
    last_positions,
)
from lens_audio.steering.vectors import activations

SIZES = Sizes()
MODEL = hooked_model(SIZES)
METRIC = metrics.logit_diff(5, 7)
CLEAN = make_prompt(SIZES, Layout([7, 5], [[23], [17]]), 1)
CORRUPTED = with_sound_of(CLEAN, make_prompt(SIZES, Layout([7, 5], [[23], [17]]), 2))
RIGHT = make_prompt(SIZES, Layout([7, 5], [[23], [17]], "right"), 1)
UNPADDED = make_prompt(SIZES, Layout([7, 7], [[23], [23]]), 1)  # of the same length
ROWS, LENGTH = CLEAN.tokens.shape
with torch.no_grad():
    _, SOURCE = MODEL.run_with_cache(CLEAN)

ENCODER_SITES = [f"audio_encoder.{short}" for short in SITES]
EVERY_SITE = [*SITES, *ENCODER_SITES, *ROOT_SITES]


def run(fwd_hooks):
    with torch.no_grad():
        return METRIC(MODEL.run_with_hooks(CORRUPTED, fwd_hooks=fwd_hooks)[:, -1])


def swept(site, engine="fast", **places):
    return sweep(MODEL, CLEAN, CORRUPTED, site, METRIC, engine=engine, verbose=False, **places)


# Sites


def spellings(short, layer):
    """A site of one layer, each with the layers= that it needs."""
    prefix, _, kind = short.rpartition(".")
    hook = f"{prefix and prefix + '.'}blocks.{{}}.{SITES[kind]}"
    from_end = layer - SIZES.n_layers
    return [
        (short, layer), (short, [from_end]), (hook, layer), (hook, torch.tensor(from_end)),
        (hook.format(layer), None), (hook.format(from_end), None),
    ]  # fmt: skip


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("short", [*SITES, *ENCODER_SITES])
def test_every_spelling_of_a_site_is_the_same_hook_point(short, layer):
    expected = spellings(short, layer)[4][0]
    for name, layers in spellings(short, layer):
        site = Site.of(name)
        assert site.short == short.rpartition(".")[2]
        assert site.in_layer(layer) == expected
        assert site.layers(MODEL.cfg, layers) == [layer]
        if expected in MODEL.hook_dict:
            ((definite, _),) = hooks.on(MODEL, hooks.ablate(name, layers=layers))
            assert definite == expected


@pytest.mark.parametrize("name", EVERY_SITE)
def test_a_site_is_called_by_its_short_name(name):
    site = Site.of(name)
    assert site.name == name
    assert Site.of(site.template) == site


def heads_shape(site):
    """[batch, …] of the site's activation, from a cache."""
    return SOURCE[Site.of(site).in_layer(0)].shape


@pytest.mark.parametrize("site", [*SITES, *ENCODER_SITES])
def test_a_site_knows_the_axes_of_its_activations(site):
    name = Site.of(site).in_layer(0)
    if name not in SOURCE:
        pytest.skip("not there, or under a flag")
    where, shape = Site.of(site), SOURCE[name].shape
    n_positions = len(CLEAN.frame_labels()) if where.in_encoder else LENGTH
    assert shape[where.position_axis] == n_positions
    if where.head_axis is None:
        assert len(shape) == 3
    else:
        assert shape[where.head_axis] == where.n_heads(MODEL.cfg)


def or_refused(call, site):
    """What a call gives; None where it refuses the site, which it must name."""
    try:
        return call()
    except ValueError as error:
        message = str(error)
    assert Site.of(site).name in message or Site.of(site).last_name in message
    return None


NOT_HERE = {"result", "audio_encoder.result"}  # under a flag
NOT_HERE |= {f"audio_encoder.{short}" for short in ("rot_q", "rot_k", "mlp_pre_linear")}
NOT_SWEPT = {"audio_encoder.pooled", "audio_encoder.out"}


@pytest.mark.parametrize("site", EVERY_SITE)
def test_hooks_take_every_site_that_the_model_has(site):
    store = {}
    calls = [
        lambda: run(hooks.patch(site, source=SOURCE)),
        lambda: run(hooks.ablate(site)),
        lambda: run(hooks.capture(store, site)),
    ]
    assert [or_refused(call, site) is None for call in calls] == [site in NOT_HERE] * 3


@pytest.mark.parametrize(
    "site", [*EVERY_SITE, "blocks.1.ln1.hook_normalized", "blocks.-1.hook_mlp_out"]
)
def test_sweeps_and_attribution_take_every_site_or_say_why_not(site):
    refused = site in NOT_HERE | NOT_SWEPT
    for engine in ("fast", "naive"):
        found = or_refused(lambda e=engine: swept(site, e, positions="all"), site)
        assert (found is None) == refused
    words = or_refused(lambda: positions_by("head", site, CLEAN), site)
    assert (words is None) == (site in NOT_SWEPT)
    effects = or_refused(lambda: attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites=site), site)
    ragged = site == "audio_embed"  # these rows have their audio at different positions
    assert (effects is None) == (refused or ragged or site.endswith("attn_scores"))


@pytest.mark.parametrize(
    "name", ["ln_final.hook_normalized", "audio_encoder.hook_mel", "unembed.hook_in"]
)
def test_what_is_outside_the_blocks_is_not_swept(name):
    for call in (
        lambda: swept(name),
        lambda: attribute(MODEL, CLEAN, CORRUPTED, METRIC, sites=name),
    ):
        with pytest.raises(ValueError, match=rf"{name}.*take '(resid_post|audio_encoder.embed)'"):
            call()


@pytest.mark.parametrize("engine", ["fast", "naive"])
def test_what_is_embedded_is_what_the_first_block_reads(engine):
    first = {"layers": [0], "engine": engine}
    same = [
        ("embed", "hook_embed", swept("resid_pre", positions="all", **first)),
        ("audio_embed", "hook_audio_embed", swept("resid_pre", positions="audio", **first)),
        ("audio_encoder.embed", "audio_encoder.hook_embed",
         swept("audio_encoder.resid_pre", positions="all", **first)),
    ]  # fmt: skip
    for short, hook, expected in same:
        for name in (short, hook):
            found = swept(name, engine, positions="all")
            assert found.about["site"] == short
            assert found.axes["layer"] == ["0"]
            torch.testing.assert_close(found.values, expected.values)
        patched = run(hooks.patch(short, source=SOURCE))
        torch.testing.assert_close(found.values[0, 0], patched, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", ["audio_embed", "blocks.1.attn.hook_z"])
def test_one_hook_point_takes_no_layer(site):
    for call in (lambda: hooks.ablate(site, layer=1), lambda: swept(site, layers=[1])):
        with pytest.raises(ValueError, match="takes no layer"):
            call()


# Positions


def last_of(prompt):
    """Each row's last real position, by counting."""
    return [max(p for p, real in enumerate(row) if real) for row in prompt.attention_mask.tolist()]


def chosen(prompt, holds):
    """A mask of the positions where `holds(row, position)`."""
    rows, length = prompt.tokens.shape
    return torch.tensor([[bool(holds(r, p)) for p in range(length)] for r in range(rows)])


def groups(prompt):
    audio, real = prompt.audio_mask.tolist(), prompt.attention_mask.tolist()
    last = last_of(prompt)
    return {
        "all": chosen(prompt, lambda r, p: True),
        "audio": chosen(prompt, lambda r, p: audio[r][p]),
        "text": chosen(prompt, lambda r, p: real[r][p] and not audio[r][p]),
        "last": chosen(prompt, lambda r, p: p == last[r]),
    }


@st.composite
def selections(draw, prompt):
    """Positions in some spelling, and the mask that they mean."""
    rows, length = prompt.tokens.shape
    kind = draw(st.sampled_from(["group", "numbers", "slice", "mask", "mask by row"]))
    if kind == "group":
        return draw(st.sampled_from(list(groups(prompt).items())))
    if kind == "slice":
        start, stop = draw(st.integers(-length, length)), draw(st.integers(-length, length))
        places = range(length)[start:stop]
        if places:
            return slice(start, stop), chosen(prompt, lambda r, p: p in places)
        return slice(-1, None), chosen(prompt, lambda r, p: p == length - 1)
    if kind == "mask by row":
        mask = torch.tensor(draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length),
                                          min_size=rows, max_size=rows)))  # fmt: skip
        mask[:, draw(st.integers(0, length - 1))] = True
        return mask, mask
    numbers = draw(st.lists(st.integers(-length, length - 1), min_size=1, max_size=5))
    meant = chosen(prompt, lambda r, p: p in numbers or p - length in numbers)
    if kind == "mask":
        return draw(st.sampled_from([meant[0], meant[:1], meant[0].tolist()])), meant
    spelled = [numbers, tuple(numbers), torch.tensor(numbers), torch.tensor(numbers).numpy()]
    if len(set(numbers)) == 1:
        spelled += [numbers[0], torch.tensor(numbers[0])]
    return draw(st.sampled_from(spelled)), meant


def zeroed(prompt, positions):
    """Where a hook at these positions acts."""
    with torch.no_grad(), MODEL.hooks(hooks.ablate("resid_pre", layer=0, positions=positions)):
        _, cache = MODEL.run_with_cache(prompt, names_filter="blocks.0.hook_resid_pre")
    return cache["resid_pre", 0].eq(0).all(-1)


def in_sweep(prompt, positions, site="resid_pre"):
    masks, axis = sweep_masks(Site.of(site), {"these": positions}, prompt, None)
    assert axis == "group"
    return masks["these"].expand(len(prompt), -1)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), prompt=st.sampled_from([CLEAN, RIGHT]))
def test_hooks_and_sweeps_select_the_same_positions(data, prompt):
    positions, meant = data.draw(selections(prompt))
    assert torch.equal(zeroed(prompt, positions), meant)
    assert torch.equal(in_sweep(prompt, positions), meant)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), site=st.sampled_from(["resid_mid", "z", "k", "pattern", "mlp_post"]))
def test_a_sweeps_cell_is_the_patch_of_a_hook(data, site):
    positions, meant = data.draw(selections(CLEAN))
    layer = data.draw(st.integers(0, 1))
    where, heads = Site.of(site), None
    n_heads = where.n_heads(MODEL.cfg)
    if n_heads is not None:
        heads = data.draw(st.none() | st.integers(-n_heads, n_heads - 1))
    name, layers = data.draw(st.sampled_from(spellings(site, layer)))

    def by_hand(activation, hook):
        for row, position in meant.nonzero().tolist():
            index = [row, position] if site != "pattern" else [row, slice(None), position]
            if heads is not None and site == "pattern":
                index[1] = heads
            elif heads is not None:
                index.append(heads)
            activation[tuple(index)] = SOURCE[hook.name][tuple(index)]
        return activation

    expected = run([(where.in_layer(layer), by_hand)])
    places = {"layers": layers, "heads": heads, "positions": positions}
    torch.testing.assert_close(run(hooks.patch(name, source=SOURCE, **places)), expected)
    for engine in ("fast", "naive"):
        cell = swept(name, engine, **places).values.reshape(-1)
        torch.testing.assert_close(cell, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt", [CLEAN, RIGHT], ids=["left", "right"])
def test_last_is_each_rows_last_real_position_everywhere(prompt):
    last, rows = torch.tensor(last_of(prompt)), torch.arange(ROWS)
    assert len(set(last.tolist())) == (1 if prompt is CLEAN else 2)
    mask = groups(prompt)["last"]
    assert torch.equal(last_positions(prompt.attention_mask), last)
    assert torch.equal(zeroed(prompt, "last"), mask)
    assert torch.equal(in_sweep(prompt, "last"), mask)
    store = {}
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(prompt)
        MODEL.run_with_hooks(prompt, fwd_hooks=hooks.capture(store, "resid_pre", positions="last"))
    at_last = cache["resid_pre", 1][rows, last]
    found = (store["blocks.1.hook_resid_pre"], activations(MODEL, [prompt], [1], "resid_pre"))
    for residual in found:
        torch.testing.assert_close(residual[:, 0], at_last)
    read = logit_lens(MODEL, prompt, positions="last")
    torch.testing.assert_close(read[:, :, 0], logit_lens(MODEL, prompt)[rows, :, last])


def test_a_metric_of_the_last_position_needs_padding_on_the_left():
    for call in (
        lambda: sweep(MODEL, RIGHT, RIGHT, "z", METRIC, positions="last"),
        lambda: path_patch(MODEL, RIGHT, RIGHT, METRIC, positions="last"),
        lambda: CircuitTest(MODEL, RIGHT, RIGHT, METRIC),
    ):
        with pytest.raises(ValueError, match="pad on the left"):
            call()


TAKE_POSITIONS = {
    "hooks": lambda positions: zeroed(CLEAN, positions),
    "sweep": lambda positions: swept("z", positions=positions, layers=[0]),
    "paths": lambda positions: path_patch(
        MODEL, CLEAN, CORRUPTED, METRIC, senders=[(0, 1)], positions=positions, verbose=False
    ),
    "lens": lambda positions: logit_lens(MODEL, CLEAN, positions=positions),
    "attention": lambda positions: audio_attention(MODEL, UNPADDED, positions),
    "attribution": lambda positions: head_attribution_by_source(
        MODEL, UNPADDED, torch.ones(SIZES.d_model), positions
    ),
    "knockout": lambda positions: run(hooks.knock_out_attention(keys=[0], queries=positions)),
}
ONE = ["last", 3, -2, torch.tensor(3), [False] * (LENGTH - 1) + [True]]
SEVERAL = [None, "all", [3, -2], range(2, 5), slice(2, 5), torch.tensor([3, 4]),
           torch.arange(LENGTH) > 4]  # fmt: skip
RAGGED = ["audio", "text", CLEAN.audio_mask]


@pytest.mark.parametrize("take", TAKE_POSITIONS)
@pytest.mark.parametrize("positions", [*ONE, *SEVERAL], ids=repr)
def test_every_spelling_of_positions_is_taken(take, positions):
    if take == "attribution" and any(positions is several for several in SEVERAL):
        with pytest.raises(ValueError, match="one position a row is attributed"):
            TAKE_POSITIONS[take](positions)
    else:
        TAKE_POSITIONS[take](positions)


@pytest.mark.parametrize("take", TAKE_POSITIONS)
@pytest.mark.parametrize("positions", RAGGED, ids=repr)
def test_rows_may_select_different_numbers_where_no_tensor_is_made_of_them(take, positions):
    if take == "lens" or (take in ("attention", "attribution") and positions is RAGGED[-1]):
        with pytest.raises(ValueError, match="different numbers"):
            TAKE_POSITIONS[take](positions)
    elif take == "attribution":
        with pytest.raises(ValueError, match="one position a row is attributed"):
            TAKE_POSITIONS[take](positions)
    else:
        TAKE_POSITIONS[take](positions)


WRONG = [
    ("middle", "no group of positions is called 'middle'"),
    (LENGTH, f"position {LENGTH} does not exist"),
    ([-LENGTH - 1], "outside the sequence"),
    ([], "an empty selection"),
    (slice(3, 3), "selects none"),
    ([0.5], "positions must be integers"),
    ([[1, 2]], "the same for all rows"),
    (["audio", "last"], "a sweep takes several groups as a mapping"),
    (torch.ones(LENGTH - 1).bool(), f"mask of {LENGTH - 1}"),
    (torch.ones(3, LENGTH).bool(), "3 rows"),
]


@pytest.mark.parametrize("take", TAKE_POSITIONS)
@pytest.mark.parametrize(("positions", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_no_position_is_refused_alike(take, positions, message):
    with pytest.raises(ValueError, match=message):
        TAKE_POSITIONS[take](positions)


def test_cells_of_a_sweep_are_no_single_selection():
    for take in ("hooks", "paths", "lens", "attention", "attribution"):
        with pytest.raises(ValueError, match="cells of a sweep"):
            TAKE_POSITIONS[take]("each")
    with pytest.raises(ValueError, match="cells of a sweep"):
        check_positions({"a": [3]}, Site.of("z"))


def test_where_nothing_is_generated_there_are_no_generated_tokens():
    for take in ("sweep", "paths", "lens", "attention", "attribution"):
        with pytest.raises(ValueError, match="'generated' selects nothing"):
            TAKE_POSITIONS[take]("generated")


def test_positions_of_the_audio_embeddings_are_the_prompts():
    one = make_prompt(SIZES, Layout([7], [[23]]))
    at = one.audio_positions(0)[1:3]
    assert torch.equal(in_sweep(one, at, "audio_embed")[0].nonzero().flatten(), at)
    with pytest.raises(ValueError, match="at audio positions only"):
        in_sweep(CLEAN, "text", "audio_embed")
    with pytest.raises(ValueError, match="select at 'embed'"):
        hooks.patch("audio_embed", source=SOURCE, positions=at)
    whole = [run(hooks.patch("audio_embed", source=SOURCE, positions=p)) for p in (None, "audio")]
    at_embed = run(hooks.patch("embed", source=SOURCE, positions="audio"))
    assert all(torch.equal(found, at_embed) for found in whole)


@pytest.mark.parametrize("group", ["last", "audio", "text"])
def test_frames_of_the_encoder_have_no_token_groups(group):
    for call in (
        lambda: hooks.ablate("audio_encoder.z", positions=group),
        lambda: swept("audio_encoder.z", positions=group),
    ):
        with pytest.raises(ValueError, match=f"before the decoder; it has no '{group}' tokens"):
            call()


# Heads


@pytest.mark.parametrize(
    "heads",
    [[(0, 1), (1, 3)], ["L0H1", "L1H3"], ["L0 H1", (1, -1)], torch.tensor([[0, 1], [1, 3]])],
)
def test_every_spelling_of_heads_is_the_same(heads):
    assert [[(layer, head % 4) for head in some] for layer, some in heads_by_layer(None, heads)] == [
        [(0, 1)], [(1, 3)],
    ]  # fmt: skip
    paths = path_patch(MODEL, CLEAN, CORRUPTED, METRIC, senders=heads, verbose=False)
    assert paths.axes["sender"] == ["0.1", "1.3"]
    if -1 not in (head for pair in heads for head in pair):
        assert Circuit.of(heads) == Circuit(((0, 1), (1, 3)))


def test_one_label_is_one_head():
    assert torch.equal(run(hooks.ablate("z", heads="L1H2")), run(hooks.ablate("z", heads=[(1, 2)])))


@pytest.mark.parametrize("heads", [2, [2], [-2], torch.tensor([2]), range(2, 3)])
def test_numbers_of_heads_are_the_same_for_hooks_and_sweeps(heads):
    patched = run(hooks.patch("z", layer=1, heads=heads, source=SOURCE))
    cell = swept("z", layers=1, heads=heads, positions="all")
    assert cell.axes["head"] == ["2"]
    torch.testing.assert_close(cell.values.reshape(-1), patched, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [[(0, 1)], "L0H1", ["L0H1"]])
def test_a_sweep_has_no_cells_for_pairs(heads):
    with pytest.raises(ValueError, match=r"does not take \(layer, head\) pairs"):
        swept("z", heads=heads)


def test_heads_that_do_not_exist_are_refused_alike():
    for call in (
        lambda: run(hooks.ablate("v", layer=0, heads=2)),
        lambda: swept("v", heads=[2]),
        lambda: path_patch(MODEL, CLEAN, CORRUPTED, METRIC, receivers=[(1, 2)], receiver_input="v"),
    ):
        with pytest.raises(ValueError, match=r"does not exist.*heads 0 to 1"):
            call()
    test = CircuitTest(MODEL, CLEAN, CORRUPTED, METRIC)
    for call in (
        lambda: test.only(["L2H0"]),
        lambda: path_patch(MODEL, CLEAN, CORRUPTED, METRIC, senders=["L2H0"]),
    ):
        with pytest.raises(ValueError, match=r"\(2, 0\) does not exist.*2 layers x 4 heads"):
            call()
