"""Sweeps: the fast engine against the naive one and TransformerLens's own; bad input; results."""

import pytest
import torch
import transformer_lens.patching as tl_patching
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt, with_sound_of

from lens_audio.analysis import metrics
from lens_audio.analysis.patching import (
    positions_by,
    sweep,
    sweep_steps,
    time_windows,
    token_groups,
)
from lens_audio.analysis.patching.fast import FastPatcher
from lens_audio.analysis.patching.result import PatchingResult

RESIDUAL_SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post"]
HEAD_SITES = ["q", "k", "v", "z", "rot_k", "pattern"]
SIZES = Sizes()
LOGIT_DIFF = metrics.logit_diff(5, 7)
LEFT_PADDED = Layout(n_text=[6, 9], clips=[[31], [31]])
ONE_ROW = Layout(n_text=[8], clips=[[31]])


def pair(layout, sizes=SIZES, seed=0):
    """A clean and a corrupted prompt: the same texts, other audio."""
    clean = make_prompt(sizes, layout, seed)
    other = make_prompt(sizes, layout, seed + 1)
    return clean, with_sound_of(clean, other)


def both_engines(model, clean, corrupted, site, **kwargs):
    kwargs = {"verbose": False, **kwargs}
    fast = sweep(model, clean, corrupted, site, LOGIT_DIFF, engine="fast", **kwargs)
    naive = sweep(model, clean, corrupted, site, LOGIT_DIFF, engine="naive", **kwargs)
    return fast, naive


@settings(max_examples=16, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    site=st.sampled_from(RESIDUAL_SITES + HEAD_SITES),
    positions=st.sampled_from(["each", "last", "audio", "text", "all"]),
    direction=st.sampled_from(["denoise", "noise"]),
    each_head=st.booleans(),
    batch_tokens=st.sampled_from([1, 40, None]),
    n_rows=st.integers(1, 3),
)
def test_fast_engine_agrees_with_naive(
    seed, site, positions, direction, each_head, batch_tokens, n_rows
):
    sizes = Sizes.random(seed)
    n_text = [4 + (seed + 3 * row) % 6 for row in range(n_rows)]
    clean, corrupted = pair(Layout(n_text, [[17]] * n_rows), sizes, seed)
    heads = "each" if each_head and site in HEAD_SITES else None
    fast, naive = both_engines(
        hooked_model(sizes, seed),
        clean,
        corrupted,
        site,
        positions=positions,
        direction=direction,
        heads=heads,
        batch_tokens=batch_tokens,
    )
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "z", "v", "mlp_post", "attn_out"])
def test_fast_engine_agrees_with_naive_in_the_encoder(site):
    clean, corrupted = pair(LEFT_PADDED)
    fast, naive = both_engines(
        hooked_model(),
        clean,
        corrupted,
        f"audio_encoder.{site}",
        positions={"start": range(0, 6), "rest": range(6, 20)},
    )
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)


def test_heads_of_the_encoder_agree_over_several_clips():
    prompts = pair(Layout(n_text=[8, 9], clips=[[31, 20], [31, 20]]))
    fast, naive = both_engines(
        hooked_model(), *prompts, "audio_encoder.z", positions="all", heads="each"
    )
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)


def test_hooks_set_between_the_steps_of_a_sweep_are_refused():
    model, (clean, corrupted) = hooked_model(), pair(ONE_ROW)
    steps = sweep_steps(model, clean, corrupted, "z", LOGIT_DIFF, heads="each", batch_tokens=1)
    next(steps), next(steps)
    left = [("blocks.0.attn.hook_z", lambda z, hook: z)]
    with model.hooks(fwd_hooks=left), pytest.raises(ValueError, match="reset_hooks"):
        next(steps)


def test_long_suffixes_agree_too(monkeypatch):
    monkeypatch.setattr("lens_audio.model.attention.SHORT_CONTINUATION", 2)
    fast, naive = both_engines(hooked_model(), *pair(LEFT_PADDED), "resid_pre")
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)


def test_patching_every_position_before_the_first_layer_gives_the_source_run():
    model, (clean, corrupted) = hooked_model(), pair(ONE_ROW)
    result = sweep(model, clean, corrupted, "resid_pre", LOGIT_DIFF, positions="all", layers=[0])
    expected = LOGIT_DIFF(model(clean)[:, -1]).detach()
    torch.testing.assert_close(result.values[0, 0], expected, atol=1e-5, rtol=0)


def test_all_audio_embeddings_carry_the_whole_difference():
    result = sweep(hooked_model(), *pair(ONE_ROW), "audio_embed", LOGIT_DIFF, positions="audio")
    torch.testing.assert_close(result.recovery(), torch.ones(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("site", "theirs", "kwargs"),
    [
        ("resid_pre", tl_patching.get_act_patch_resid_pre, {}),
        ("resid_mid", tl_patching.get_act_patch_resid_mid, {}),
        ("attn_out", tl_patching.get_act_patch_attn_out, {}),
        ("mlp_out", tl_patching.get_act_patch_mlp_out, {}),
        ("z", tl_patching.get_act_patch_attn_head_out_by_pos, {"heads": "each"}),
        ("q", tl_patching.get_act_patch_attn_head_q_by_pos, {"heads": "each"}),
        ("k", tl_patching.get_act_patch_attn_head_k_by_pos, {"heads": "each"}),
        ("v", tl_patching.get_act_patch_attn_head_v_all_pos, {"heads": "each", "positions": "all"}),
    ],
)
def test_agrees_with_transformer_lens_patching(site, theirs, kwargs):
    model, (clean, corrupted) = hooked_model(), pair(ONE_ROW)
    _, clean_cache = model.run_with_cache(clean)
    with model.listening_to(corrupted), torch.no_grad():
        expected = theirs(
            model, corrupted.tokens, clean_cache, lambda logits: LOGIT_DIFF(logits[:, -1])[0]
        )
    ours = sweep(model, clean, corrupted, site, LOGIT_DIFF, verbose=False, **kwargs)
    torch.testing.assert_close(ours.mean(), expected.cpu(), atol=1e-4, rtol=0)


def test_several_metrics_are_kept_apart_for_each_example():
    both = {"difference": LOGIT_DIFF, "probability": metrics.probability(5)}
    result = sweep(
        hooked_model(), *pair(LEFT_PADDED), "resid_post", both, positions=token_groups_of()
    )
    assert result.axes["metric"] == ["difference", "probability"]
    assert result.values.shape == (2, 2, 3, 2)


def token_groups_of():
    return token_groups(make_prompt(layout=LEFT_PADDED))


def test_time_windows_cover_every_audio_position_once():
    prompt = make_prompt(layout=ONE_ROW)
    windows = time_windows(prompt, 0.12)
    covered = torch.cat(list(windows.values()))
    assert torch.equal(covered.sort().values, prompt.audio_positions(0))


def test_time_windows_leave_out_no_token_whose_middle_is_on_an_edge():
    sizes = Sizes(n_frames=30)
    prompt = make_prompt(sizes, Layout(clips=[[52]]))  # the last token's middle is at 0.5 s
    windows = time_windows(prompt, 0.1)
    covered = torch.cat(list(windows.values()))
    assert torch.equal(covered.sort().values, prompt.audio_positions(0))
    assert windows["0.50-0.52 s"].tolist() == prompt.audio_positions(0)[-1:].tolist()


def test_an_interrupted_sweep_continues(tmp_path, monkeypatch):
    model, prompts = hooked_model(), pair(ONE_ROW)
    path = tmp_path / "sweep.safetensors"
    whole = sweep(model, *prompts, "resid_pre", LOGIT_DIFF, verbose=False)
    real_run, n_run = FastPatcher.run, []

    def interrupted(self, cells, batch_tokens):
        for done in real_run(self, cells, batch_tokens):
            if len(n_run) == 5:
                raise KeyboardInterrupt
            n_run.append(done[0].index)
            yield done

    monkeypatch.setattr(FastPatcher, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, *prompts, "resid_pre", LOGIT_DIFF, resume_from=path, verbose=False)
    rest = []

    def counted(self, cells, batch_tokens):
        rest.extend(cell.index for cell in cells)
        yield from real_run(self, cells, batch_tokens)

    monkeypatch.setattr(FastPatcher, "run", counted)
    result = sweep(model, *prompts, "resid_pre", LOGIT_DIFF, resume_from=path, verbose=False)
    assert not set(rest) & set(n_run)
    torch.testing.assert_close(result.values, whole.values, atol=1e-5, rtol=0)


def test_resuming_another_sweep_is_refused(tmp_path):
    model, prompts = hooked_model(), pair(ONE_ROW)
    path = tmp_path / "sweep.safetensors"
    sweep(model, *prompts, "resid_pre", LOGIT_DIFF, resume_from=path, verbose=False)
    with pytest.raises(ValueError, match="another"):
        sweep(model, *prompts, "resid_mid", LOGIT_DIFF, resume_from=path, verbose=False)


def test_running_out_of_memory_halves_the_batch(monkeypatch):
    model, prompts = hooked_model(), pair(ONE_ROW)
    whole = sweep(model, *prompts, "z", LOGIT_DIFF, positions="last", heads="each", verbose=False)
    real_batch, sizes = FastPatcher._run_batch, []

    def scarce(self, first, cells):
        sizes.append(len(cells))
        if len(cells) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real_batch(self, first, cells)

    monkeypatch.setattr(FastPatcher, "_run_batch", scarce)
    result = sweep(model, *prompts, "z", LOGIT_DIFF, positions="last", heads="each", verbose=False)
    assert sizes[0] == 8
    assert sizes[-1] == 2
    torch.testing.assert_close(result.values, whole.values, atol=1e-5, rtol=0)


def test_no_hook_is_left_behind():
    model = hooked_model()
    sweep(model, *pair(ONE_ROW), "z", LOGIT_DIFF, heads="each", verbose=False)
    assert not any(point.has_hooks() for point in model.hook_points())


def test_a_saved_result_comes_back(tmp_path):
    result = sweep(hooked_model(), *pair(LEFT_PADDED), "resid_post", LOGIT_DIFF, verbose=False)
    result.save(tmp_path / "result.safetensors")
    loaded = PatchingResult.load(tmp_path / "result.safetensors")
    assert loaded.axes == result.axes
    assert torch.equal(loaded.values, result.values)


def test_the_same_result_gives_the_same_file(tmp_path):
    """safetensors writes its metadata in an order that changes from file to file."""
    axes = {"metric": ["m"], "layer": ["0", "1"], "example": ["0"]}
    result = PatchingResult(
        torch.ones(1, 2, 1), axes, torch.zeros(1, 1), torch.ones(1, 1), {"a": 1}
    )
    for number in range(8):
        result.save(tmp_path / str(number))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_table_has_a_row_for_every_cell_and_example():
    result = sweep(hooked_model(), *pair(LEFT_PADDED), "z", LOGIT_DIFF, heads="each", verbose=False)
    table = result.to_dataframe()
    assert len(table) == result.values.numel()
    assert {"metric", "layer", "position", "head", "example", "value", "recovery"} <= set(table)


def test_the_interval_holds_the_mean():
    layout = Layout(n_text=[6] * 5, clips=[[31]] * 5)
    result = sweep(hooked_model(), *pair(layout), "resid_post", LOGIT_DIFF, positions="last")
    low, high = result.interval()
    assert bool(((low <= result.mean()) & (result.mean() <= high)).all())


def test_an_interval_needs_two_examples():
    result = sweep(hooked_model(), *pair(ONE_ROW), "resid_post", LOGIT_DIFF, positions="last")
    with pytest.raises(ValueError, match="at least two"):
        result.interval()


def test_recovery_is_undefined_where_nothing_differs():
    clean, _ = pair(ONE_ROW)
    result = sweep(hooked_model(), clean, clean, "resid_post", LOGIT_DIFF, positions="last")
    assert bool(result.recovery().isnan().all())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"site": "zz"}, "no site"),
        ({"layers": [2]}, "layer 2 does not exist"),
        ({"layers": []}, "empty selection"),
        ({"site": "z", "heads": [4]}, "head 4 does not exist"),
        ({"heads": "each"}, "has no heads"),
        ({"positions": [500]}, "outside"),
        ({"positions": []}, "empty"),
        ({"positions": "middle"}, "no group"),
        ({"positions": {}}, "no groups"),
        ({"direction": "sideways"}, "direction"),
        ({"engine": "quick"}, "engine"),
        ({"metric": lambda logits: logits.sum()}, "one number a row"),
        ({"metric": lambda logits: logits[:, 0] * torch.nan}, "NaN"),
        ({"metric": {}}, "no metric"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    arguments = {"site": "resid_pre", "metric": LOGIT_DIFF, "verbose": False, **kwargs}
    with pytest.raises(ValueError, match=message):
        sweep(hooked_model(), *pair(ONE_ROW), **arguments)


def test_unequal_clips_are_refused():
    clean = make_prompt(layout=Layout(clips=[[31]]))
    corrupted = make_prompt(layout=Layout(clips=[[23]]))
    with pytest.raises(ValueError, match="positions do not correspond"):
        sweep(hooked_model(), clean, corrupted, "resid_pre", LOGIT_DIFF)


def test_a_model_with_hooks_is_refused():
    model = hooked_model()
    model.add_hook("blocks.0.hook_resid_pre", lambda x, hook: x)
    with pytest.raises(ValueError, match="hooks are set"):
        sweep(model, *pair(ONE_ROW), "resid_pre", LOGIT_DIFF)


def test_a_sweep_in_steps_is_the_same():
    model, (clean, corrupted) = hooked_model(), pair(ONE_ROW)
    *_, (done, total, result) = sweep_steps(model, clean, corrupted, "resid_pre", LOGIT_DIFF)
    whole = sweep(model, clean, corrupted, "resid_pre", LOGIT_DIFF, verbose=False)
    assert done == total == whole.values.numel()
    torch.testing.assert_close(result.values, whole.values)


def test_the_model_is_free_between_the_steps_of_a_sweep():
    model, (clean, corrupted) = hooked_model(), pair(ONE_ROW)
    expected = model(clean)
    steps = sweep_steps(model, clean, corrupted, "z", LOGIT_DIFF, heads="each", batch_tokens=1)
    for _, (done, _, result) in zip(range(3), steps, strict=False):
        assert int((~result.values.isnan()).sum()) == done
        assert all(not point.fwd_hooks for point in model.hook_points())
        torch.testing.assert_close(model(clean), expected)


@pytest.mark.parametrize("kind", ["window", "head", "position", "group"])
@pytest.mark.parametrize("site", ["resid_pre", "z", "audio_encoder.resid_post"])
def test_the_usual_sweeps_have_cells_everywhere(kind, site):
    model, (clean, corrupted) = hooked_model(), pair(ONE_ROW)
    if kind == "group" and site.startswith("audio_encoder."):
        pytest.skip("the encoder has no token groups")
    positions, words = positions_by(kind, site, clean, 0.08)
    result = sweep(model, clean, corrupted, site, LOGIT_DIFF, positions=positions, verbose=False)
    assert not bool(result.values.isnan().any())
    assert words


def test_a_sweep_by_something_else_is_refused():
    with pytest.raises(ValueError, match="window, head, position, group"):
        positions_by("word", "z", pair(ONE_ROW)[0])
