"""Every analysis runs on the first generation by the one code path, exact beyond seq_length too."""

import pytest
import torch
import transformer_lens.patching as tl_patching
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, with_sound_of
from qwen_audio_models import SIZES, edged_prompt, first_generation, random_sizes

from lens_audio import hooks
from lens_audio.analysis.logit_lens import logit_lens
from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute
from lens_audio.data.knock_out import choice_probs_without
from lens_audio.steering.audio_silence.direction import SilenceEmbeddings, residuals_of_both

MODEL = first_generation()
LOGIT_DIFF = logit_diff(5, 7)
LAYOUT = Layout([9, 5], [[31], [31]])  # 16 and 12 tokens: one row at seq_length, with its edges on
LONG = Layout([30], [[31]])
NEAR = {"atol": 1e-4, "rtol": 0}


def pair(layout=LAYOUT, sizes=SIZES, seed=0):
    """A clean and a corrupted prompt: the same texts, other audio."""
    clean = edged_prompt(sizes, layout, seed)
    other = edged_prompt(sizes, layout, seed + 1)
    return clean, with_sound_of(clean, other)


def both_engines(model, clean, corrupted, site, **kwargs):
    kwargs = {"verbose": False, **kwargs}
    fast = sweep(model, clean, corrupted, site, LOGIT_DIFF, engine="fast", **kwargs)
    naive = sweep(model, clean, corrupted, site, LOGIT_DIFF, engine="naive", **kwargs)
    return fast.values, naive.values


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    site=st.sampled_from(["resid_pre", "resid_mid", "attn_out", "q", "k", "v", "z", "rot_k"]),
    positions=st.sampled_from(["each", "last", "audio", "text", "all"]),
    seq_length=st.sampled_from([4, 9, 16, 64]),
    n_rows=st.integers(1, 3),
)
def test_fast_engine_agrees_with_naive(seed, site, positions, seq_length, n_rows):
    sizes = random_sizes(seed)
    layout = Layout([4 + (seed + 7 * row) % 19 for row in range(n_rows)], [[17]] * n_rows)
    fast, naive = both_engines(
        first_generation(sizes, seed, seq_length),
        *pair(layout, sizes, seed),
        site,
        positions=positions,
    )
    torch.testing.assert_close(fast, naive, **NEAR)


@pytest.mark.parametrize("frames", [[31, 31], [17, 39]])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "z", "v"])
def test_fast_engine_agrees_with_naive_in_the_encoder(site, frames):
    prompts = pair(Layout([9, 5], [[n] for n in frames]))
    positions = {"start": range(0, 6), "rest": range(6, 20)}
    fast, naive = both_engines(MODEL, *prompts, f"audio_encoder.{site}", positions=positions)
    torch.testing.assert_close(fast, naive, **NEAR)


@pytest.mark.parametrize(
    ("site", "theirs", "kwargs"),
    [
        ("resid_pre", tl_patching.get_act_patch_resid_pre, {}),
        ("z", tl_patching.get_act_patch_attn_head_out_by_pos, {"heads": "each"}),
        ("q", tl_patching.get_act_patch_attn_head_q_by_pos, {"heads": "each"}),
        ("k", tl_patching.get_act_patch_attn_head_k_by_pos, {"heads": "each"}),
    ],
)
def test_agrees_with_transformer_lens_patching(site, theirs, kwargs):
    clean, corrupted = pair(LONG)
    _, clean_cache = MODEL.run_with_cache(clean)
    with MODEL.listening_to(corrupted), torch.no_grad():
        expected = theirs(
            MODEL, corrupted.tokens, clean_cache, lambda logits: LOGIT_DIFF(logits[:, -1]).mean()
        )
    found = sweep(MODEL, clean, corrupted, site, LOGIT_DIFF, verbose=False, **kwargs)
    torch.testing.assert_close(found.values[0].mean(-1), expected, **NEAR)


@torch.no_grad()
def test_an_activation_cache_decomposes_the_residual_stream():
    prompt = edged_prompt(layout=LONG)
    logits, cache = MODEL.run_with_cache(prompt)
    parts = cache.decompose_resid(layer=-1).sum(0)
    torch.testing.assert_close(parts, cache["resid_post", -1], **NEAR)
    heads = cache.stack_head_results(layer=1).sum(0)
    torch.testing.assert_close(heads, cache["attn_out", 0], **NEAR)
    last = logit_lens(MODEL, prompt)[:, -1]
    torch.testing.assert_close(last.log_softmax(-1), logits.log_softmax(-1), **NEAR)


@torch.no_grad()
def test_attention_scores_are_rotated_queries_times_rotated_keys():
    _, cache = MODEL.run_with_cache(edged_prompt(layout=LONG))
    for layer in range(SIZES.n_layers):
        q, k = cache["rot_q", layer], cache["rot_k", layer]
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / SIZES.d_head**0.5
        found = cache["attn_scores", layer]
        readable = found > -torch.inf
        torch.testing.assert_close(found[readable], scores[readable], **NEAR)


def test_attribution_gives_every_site():
    clean, corrupted = pair(LONG)
    found = attribute(MODEL, clean, corrupted, LOGIT_DIFF, sites=["resid_pre", "z"])
    assert all(bool(result.values.isfinite().all()) for result in found.values())


@pytest.mark.parametrize("queries", ["text", "last"])
@torch.no_grad()
def test_heads_knocked_out_over_a_prefix_that_is_read_again(queries):
    prompt = edged_prompt(layout=Layout([20, 12], [[31], [23]]))
    heads, tokens = [(0, 1), (1, 2)], torch.tensor([[5, 7], [5, 7]])
    found = choice_probs_without(MODEL, prompt, [[], heads], tokens, queries)
    readers = prompt.attention_mask & ~prompt.audio_mask
    cut = hooks.knock_out_attention(
        heads=heads, queries="last" if queries == "last" else readers, keys=prompt.audio_mask
    )
    for row, fwd_hooks in zip(found, ([], cut), strict=True):
        logits = MODEL.run_with_hooks(prompt, fwd_hooks=fwd_hooks)[:, -1]
        torch.testing.assert_close(row, logits.gather(1, tokens).softmax(-1), **NEAR)


DIRECTION = torch.randn(SIZES.d_model, generator=torch.Generator().manual_seed(3)) * 3
INTERVENTIONS = {
    "steer last": hooks.steer(DIRECTION, layer=0),
    "steer generated": hooks.steer(DIRECTION, layer=0, positions="generated"),
    "steer audio": hooks.steer(DIRECTION, site="embed", positions="audio"),
    "zero a position": hooks.ablate("mlp_out", layer=1, positions=2),
    "knock out": hooks.knock_out_attention(keys="audio"),
    "scale": hooks.scale_attention(keys="text", queries="generated", factor=4.0),
}


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("layout", [Layout([5], [[31]]), LAYOUT], ids=["one", "two"])
def test_interventions_act_alike_with_and_without_a_cache(name, layout):
    prompt = edged_prompt(layout=layout)
    options = {"return_type": "tokens", "verbose": False, "stop_at_eos": False}
    with MODEL.hooks(INTERVENTIONS[name]):
        cached = MODEL.generate(prompt, 25, **options)
        whole = MODEL.generate(prompt, 25, use_past_kv_cache=False, **options)
    assert torch.equal(cached, whole)


class Silencer:
    """Stands for a processor that knows what silence looks like."""

    class feature_extractor:
        sampling_rate, hop_length = 16000, 160

        def __new__(cls, waves, max_length, **_):
            mel = torch.full((len(waves), SIZES.n_mels, max_length // 160), -1.5)
            return {"input_features": mel}


def test_both_sides_of_a_prompt_are_whole_runs():
    prompt = edged_prompt(layout=Layout([30, 9], [[31], [31]]))
    object.__setattr__(prompt, "processor", Silencer)
    sides = residuals_of_both(MODEL, prompt, [0, 1], SilenceEmbeddings())
    for found, run in zip(sides, (prompt, prompt.silenced()), strict=True):
        _, cache = MODEL.run_with_cache(run)
        for layer in (0, 1):
            torch.testing.assert_close(found[layer], cache["resid_post", layer][:, -1], **NEAR)
