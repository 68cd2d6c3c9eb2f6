"""patch, ablate, steer, project_out and capture against computations by hand."""

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import hooks

SIZES = Sizes(n_layers=3)
MODEL = hooked_model(SIZES)
LAYOUT = Layout([7, 5], [[23], [9, 12]])
RUN, OTHER = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
BATCH, LENGTH = RUN.tokens.shape


def cached(fwd_hooks=(), prompt=RUN):
    with torch.no_grad(), MODEL.hooks(fwd_hooks=fwd_hooks):
        return MODEL.run_with_cache(prompt)[1]


BEFORE, SOURCE = cached(), cached(prompt=OTHER)


def assert_replaced(site, layer, after, selected, expected):
    """Exactly the selected entries have the expected values; the others are those of before."""
    name = hooks.hook_names(site, layer)[0]
    selected = selected.expand_as(BEFORE[name])
    torch.testing.assert_close(after[name][selected], expected[selected], atol=1e-6, rtol=1e-5)
    assert torch.equal(after[name][~selected], BEFORE[name][~selected])
    assert not torch.equal(after[name], BEFORE[name])


def at(*positions, n_dims=3):
    mask = torch.zeros(LENGTH, dtype=torch.bool)
    mask[list(positions)] = True
    return mask.reshape(1, -1, *[1] * (n_dims - 2))


@pytest.mark.parametrize(
    ("positions", "selected"),
    [
        (None, at(*range(LENGTH))),
        ("all", at(*range(LENGTH))),
        (4, at(4)),
        ([4, -2], at(4, LENGTH - 2)),
        (torch.tensor([4, -2]), at(4, LENGTH - 2)),
        (slice(-3, None), at(-3, -2, -1)),
        (at(2, 3).flatten(), at(2, 3)),
        (RUN.audio_mask, RUN.audio_mask[..., None]),
        ("audio", RUN.audio_mask[..., None]),
        ("text", (~RUN.audio_mask & RUN.attention_mask)[..., None]),
        ("last", at(-1)),
        (RUN.positions_between(0, 0.0, 0.05), at(*RUN.audio_positions(0)[:2].tolist())),
    ],
)
def test_patch_replaces_the_selected_positions(positions, selected):
    after = cached(hooks.patch("resid_pre", layer=1, source=SOURCE, positions=positions))
    assert_replaced("resid_pre", 1, after, selected, SOURCE["resid_pre", 1])


def heads_of(*numbers, n=SIZES.n_heads):
    mask = torch.zeros(n, dtype=torch.bool)
    mask[list(numbers)] = True
    return mask


@pytest.mark.parametrize(("heads", "chosen"), [(2, [2]), ([0, -1], [0, 3]), (range(2), [0, 1])])
@pytest.mark.parametrize("site", ["q", "z", "rot_q"])
def test_patch_replaces_the_selected_heads(site, heads, chosen):
    after = cached(hooks.patch(site, layer=-1, source=SOURCE, heads=heads, positions="last"))
    selected = heads_of(*chosen)[:, None] & at(-1, n_dims=4)
    assert_replaced(site, 2, after, selected, SOURCE[f"blocks.2.attn.hook_{site}"])


def test_patch_of_grouped_keys_counts_their_own_heads():
    after = cached(hooks.patch("v", layer=0, source=SOURCE, heads=1))
    assert_replaced("v", 0, after, heads_of(1, n=2)[:, None], SOURCE["v", 0])
    with pytest.raises(ValueError, match="heads 0 to 1"):
        cached(hooks.patch("v", layer=0, source=SOURCE, heads=2))


def test_patterns_are_selected_by_query():
    after = cached(hooks.patch("pattern", layer=1, source=SOURCE, heads=3, positions=[-1]))
    selected = heads_of(3)[:, None, None] & at(-1)
    assert_replaced("pattern", 1, after, selected, SOURCE["pattern", 1])


@pytest.mark.parametrize("as_pairs", [list, torch.tensor])
def test_pairs_name_layers_and_heads(as_pairs):
    after = cached(hooks.ablate("z", heads=as_pairs([(0, 1), (2, 3), (0, 2)])))
    zeros = torch.zeros_like(BEFORE["z", 0])
    assert_replaced("z", 0, after, heads_of(1, 2)[:, None], zeros)
    z = after["z", 2]
    assert not z[:, :, 3].any()
    assert z[:, :, :3][RUN.attention_mask].all()
    assert after["z", 1][RUN.attention_mask].all()


@pytest.mark.parametrize("layers", [None, range(3), torch.arange(3), [0, 1, -1]])
def test_layers_are_all_by_default(layers):
    after = cached(hooks.ablate("mlp_out", layers=layers))
    assert not any(after["mlp_out", layer].any() for layer in range(3))


@pytest.mark.parametrize(
    "site",
    [
        *[site for site in hooks.SITES if site != "result"],
        *["audio_encoder.resid_pre", "audio_encoder.z", "audio_encoder.mlp_post"],
        *["embed", "audio_embed", "audio_encoder.pooled", "audio_encoder.out"],
        *["ln_final.hook_normalized", "blocks.-1.ln1.hook_normalized", "audio_encoder.hook_mel"],
    ],
)
def test_every_site_can_be_patched(site):
    fwd_hooks = hooks.on(MODEL, hooks.patch(site, source=SOURCE))
    after, (name, _) = cached(fwd_hooks), fwd_hooks[0]
    names = [n for n in after if (n == name if isinstance(name, str) else name(n))]
    assert names
    assert all(torch.equal(after[n], SOURCE[n]) for n in names)
    assert not torch.equal(after["unembed.hook_out"], BEFORE["unembed.hook_out"])


def test_frames_of_the_spectrogram_are_its_positions():
    after = cached(hooks.ablate("audio_encoder.hook_mel", positions=slice(0, 3)))
    mel = after["audio_encoder.hook_mel"]
    assert not mel[:, :, :3].any()
    assert mel[:, :, 3:].all()


def test_input_of_a_head_is_selected_under_its_flag():
    model = hooked_model(SIZES)
    model.set_use_split_qkv_input(True)
    with torch.no_grad(), model.hooks(hooks.ablate("blocks.1.hook_q_input", heads=[0])):
        _, cache = model.run_with_cache(RUN)
    b_q = model.b_Q[1]
    torch.testing.assert_close(cache["q", 1][:, :, 0], b_q[0].expand(BATCH, LENGTH, -1))
    torch.testing.assert_close(cache["q", 1][:, :, 1:], BEFORE["q", 1][:, :, 1:])


def test_a_single_row_serves_every_row():
    row = SOURCE["resid_pre", 1][:1]
    for source in (row, row[0], {"blocks.1.hook_resid_pre": row}):
        after = cached(hooks.patch("resid_pre", layer=1, source=source))
        assert torch.equal(after["resid_pre", 1], row.expand(BATCH, -1, -1))


def test_mean_of_a_source_is_over_its_rows_and_positions():
    source = torch.randn(5, 9, SIZES.d_model)
    after = cached(hooks.ablate("attn_out", how="mean", source=source, layer=1, positions=[3, 5]))
    expected = source.mean((0, 1)).expand(BATCH, LENGTH, -1)
    assert_replaced("attn_out", 1, after, at(3, 5), expected)


def test_mean_of_the_batch_leaves_padding_out():
    after = cached(hooks.ablate("z", how="mean", layer=1))
    real, z = RUN.attention_mask, BEFORE["z", 1]
    expected = torch.stack([z[real[:, p], p].mean(0) for p in range(LENGTH)])
    assert not real.all()
    torch.testing.assert_close(after["z", 1], expected.expand(BATCH, -1, -1, -1))


def test_mean_of_patterns_is_over_rows():
    after = cached(hooks.ablate("pattern", how="mean", source=SOURCE, layer=1))
    torch.testing.assert_close(after["pattern", 1][0], SOURCE["pattern", 1].mean(0))


def test_resampling_takes_whole_rows_and_the_same_in_every_layer():
    source = {f"blocks.{l}.attn.hook_z": torch.randn(6, LENGTH, 4, 8) for l in range(3)}
    after = cached(hooks.ablate("z", how="resample", source=source, seed=5))
    drawn = torch.randint(6, (BATCH,), generator=torch.Generator().manual_seed(5))
    for layer in range(3):
        assert torch.equal(after["z", layer], source[f"blocks.{layer}.attn.hook_z"][drawn])


@pytest.mark.parametrize("n_rows", [None, 1, BATCH])
@pytest.mark.parametrize("coefficient", [2.0, torch.tensor([2.0, -1.0])])
def test_steering_adds_the_direction(n_rows, coefficient):
    shape = (SIZES.d_model,) if n_rows is None else (n_rows, SIZES.d_model)
    direction = torch.randn(shape)
    after = cached(hooks.steer(direction, layer=1, coefficient=coefficient))
    step = torch.as_tensor(coefficient).reshape(-1, 1) * direction
    expected = BEFORE["resid_post", 1] + step[:, None]
    assert_replaced("resid_post", 1, after, at(-1), expected)


def test_steering_of_one_head():
    direction = torch.randn(SIZES.d_head)
    after = cached(hooks.steer(direction, site="z", heads=[(1, 2)], positions="audio"))
    selected = heads_of(2)[:, None] & RUN.audio_mask[..., None, None]
    assert_replaced("z", 1, after, selected, BEFORE["z", 1] + direction)


def test_steering_vectors_can_be_learned():
    direction = torch.zeros(SIZES.d_model, requires_grad=True)
    MODEL.run_with_hooks(RUN, fwd_hooks=hooks.steer(direction, layer=1))[:, -1].max().backward()
    assert direction.grad.abs().sum() > 0


@pytest.mark.parametrize("n", [1, 2])
def test_projecting_out_leaves_nothing_along_the_directions(n):
    directions = torch.randn(n, SIZES.d_model)
    given = directions[0] if n == 1 else torch.cat([directions, directions.sum(0, keepdim=True)])
    after = cached(hooks.project_out(given, layer=1, positions=[-1]))
    basis = torch.linalg.qr(directions.T).Q
    before = BEFORE["resid_post", 1]
    assert_replaced("resid_post", 1, after, at(-1), before - before @ basis @ basis.T)
    assert (after["resid_post", 1][:, -1] @ directions.T).abs().max() < 1e-4


def test_capture_stores_what_the_cache_has():
    store = {}
    cached(hooks.capture(store, "z") + hooks.capture(store, "audio_encoder.mlp_out", layer=1))
    names = [f"blocks.{l}.attn.hook_z" for l in range(3)]
    assert set(store) == {*names, "audio_encoder.blocks.1.hook_mlp_out"}
    assert all(torch.equal(store[name], BEFORE[name]) for name in store)
    assert not any(stored.requires_grad for stored in store.values())


def test_capture_of_some_positions():
    store = {}
    cached(hooks.capture(store, "resid_pre", layer=2, positions=[-1, 3]))
    assert torch.equal(store["blocks.2.hook_resid_pre"], BEFORE["resid_pre", 2][:, [3, LENGTH - 1]])
    cached(hooks.capture(store, "pattern", layer=2, positions="last"))
    assert torch.equal(store["blocks.2.attn.hook_pattern"], BEFORE["pattern", 2][:, :, -1:])
    single = make_prompt(SIZES, Layout([7], [[23]]))
    cached(hooks.capture(store, "resid_pre", layer=1, positions="audio"), single)
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(single)
    expected = cache["resid_pre", 1][:, single.audio_positions(0)]
    assert torch.equal(store["blocks.1.hook_resid_pre"], expected)


def test_capture_refuses_ragged_selections():
    with pytest.raises(ValueError, match="different numbers"):
        cached(hooks.capture({}, "resid_pre", positions="audio"))


def test_last_is_each_rows_last_real_position():
    prompt = make_prompt(SIZES, Layout([7, 5], [[23], [9]], "right"))
    store = {}
    cached(hooks.capture(store, "resid_post", layer=0, positions="last"), prompt)
    expected = cached(prompt=prompt)["resid_post", 0]
    last = prompt.attention_mask.sum(1) - 1
    assert torch.equal(store["blocks.0.hook_resid_post"][:, 0], expected[torch.arange(2), last])


def test_embeddings_know_which_prompt_they_are_of():
    """Groups at hook_embed are those of the forward in progress, not of the one before."""
    first, second = make_prompt(SIZES, Layout([9], [[31]])), make_prompt(SIZES, Layout([6], [[12]]))
    for prompt in (first, second):
        after = cached(hooks.ablate("embed", positions="audio"), prompt)["embed"]
        assert torch.equal(after.eq(0).all(-1), prompt.audio_mask)


def test_positions_count_from_the_end_where_only_the_last_logits_are_kept():
    direction = torch.randn(SIZES.d_model)
    for positions in ("last", -1, at(-1).flatten()):
        steered = hooks.steer(direction, site="unembed.hook_in", positions=positions)
        with torch.no_grad():
            whole = MODEL.run_with_hooks(RUN, fwd_hooks=steered)[:, -1:]
            kept = MODEL.run_with_hooks(RUN, fwd_hooks=steered, logits_to_keep=1)
        torch.testing.assert_close(kept, whole)
        assert not torch.allclose(whole, MODEL(RUN)[:, -1:])
