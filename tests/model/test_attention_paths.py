"""The fused path, the pattern path and the hooked norms are one and the same model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt

SIZES = Sizes()
MODEL = hooked_model(SIZES)
LAYOUTS = {
    "single": Layout([7], [[23]]),
    "left": Layout([9, 4], [[23], [8, 9]], "left"),
    "right": Layout([9, 4], [[23], [8, 9]], "right"),
    "text": Layout([6, 3], [[], []], "left"),
}


def nothing(value, hook):
    return None


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_hooked_and_unhooked_logits_agree(layout):
    prompt = make_prompt(SIZES, LAYOUTS[layout])
    hooked = MODEL.run_with_hooks(prompt, fwd_hooks=[(lambda name: True, nothing)])
    torch.testing.assert_close(hooked, MODEL(prompt), atol=1e-5, rtol=0)


@pytest.mark.parametrize("site", ["hook_pattern", "hook_attn_scores"])
@torch.no_grad()
def test_pattern_path_agrees_with_the_fused_path(site):
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    hooks = [(lambda name: name.endswith(site), nothing)]
    found = MODEL.run_with_hooks(prompt, fwd_hooks=hooks)
    torch.testing.assert_close(found, MODEL(prompt), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_pattern_rows_of_real_queries_sum_to_one(layout):
    prompt = make_prompt(SIZES, LAYOUTS[layout])
    _, cache = MODEL.run_with_cache(prompt, names_filter=lambda n: n.endswith("hook_pattern"))
    for l in range(SIZES.n_layers):
        sums = cache["pattern", l].sum(-1).transpose(1, 2)[prompt.attention_mask]
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_queries_attend_to_nothing():
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    _, cache = MODEL.run_with_cache(prompt, names_filter="blocks.0.attn.hook_pattern")
    rows = cache["pattern", 0].transpose(1, 2)[~prompt.attention_mask]
    assert (rows == 0).all()


@torch.no_grad()
def test_fused_path_gives_padding_queries_a_z_of_zero():
    prompt = make_prompt(SIZES, LAYOUTS["left"])
    _, cache = MODEL.run_with_cache(prompt, names_filter="blocks.0.attn.hook_z")
    assert (cache["z", 0][~prompt.attention_mask] == 0).all()


@torch.no_grad()
def test_an_edited_pattern_is_the_one_that_mixes_the_values():
    """All attention on the first key: z is its value, in every head of its group."""
    prompt = make_prompt(SIZES, LAYOUTS["single"])

    def look_at_the_first_key(pattern, hook):
        pattern = torch.zeros_like(pattern)
        pattern[..., 0] = 1
        return pattern

    seen = {}

    def keep(value, hook):
        seen[hook.name] = value

    names = ["blocks.0.attn.hook_z", "blocks.0.attn.hook_v"]
    MODEL.run_with_hooks(
        prompt,
        fwd_hooks=[("blocks.0.attn.hook_pattern", look_at_the_first_key)]
        + [(name, keep) for name in names],
    )
    values = seen[names[1]][:, 0].repeat_interleave(SIZES.n_heads // SIZES.kv_heads, dim=1)
    torch.testing.assert_close(seen[names[0]], values[:, None].expand_as(seen[names[0]]))


@torch.no_grad()
def test_scores_set_to_minus_infinity_knock_the_key_out():
    prompt = make_prompt(SIZES, LAYOUTS["single"])
    keys = prompt.audio_mask[0]

    def knock_out(scores, hook):
        scores[..., keys] = -torch.inf
        return scores

    seen = {}
    MODEL.run_with_hooks(
        prompt,
        fwd_hooks=[
            ("blocks.0.attn.hook_attn_scores", knock_out),
            ("blocks.0.attn.hook_pattern", lambda p, hook: seen.update(p=p)),
        ],
    )
    assert (seen["p"][..., keys] == 0).all()
    text = seen["p"][:, :, ~keys].sum(-1)
    torch.testing.assert_close(text, torch.ones_like(text))


@torch.no_grad()
def test_a_query_left_with_no_key_reads_nothing():
    prompt = make_prompt(SIZES, LAYOUTS["single"])
    hooks = [("blocks.0.attn.hook_attn_scores", lambda s, hook: torch.full_like(s, -torch.inf))]
    assert MODEL.run_with_hooks(prompt, fwd_hooks=hooks).isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1))
def test_encoder_of_a_clip_ignores_the_padding_after_it(n_frames, hooked):
    """Trimmed or not, what follows the sound by more than the convolutions' reach is not read."""
    mel = torch.randn(1, SIZES.n_mels, 40, generator=torch.Generator().manual_seed(n_frames))
    noisy = mel.clone()
    noisy[:, :, n_frames + 2 :] = 7.0
    lengths = torch.tensor([n_frames])
    n_tokens = ((n_frames - 1) // 2 + 1) // 2
    with torch.no_grad():
        quiet = MODEL.audio_encoder(mel, lengths)[:, :n_tokens]
        encoder = MODEL.audio_encoder
        with encoder.hooks([("hook_embed", nothing)] if hooked else []):
            loud = encoder(noisy, lengths)[:, :n_tokens]
    torch.testing.assert_close(loud, quiet, atol=1e-5, rtol=0)


@torch.no_grad()
def test_encoder_runs_alone():
    prompt = make_prompt(SIZES, LAYOUTS["single"])
    out = MODEL.audio_encoder(prompt.mel, prompt.mel_lengths)
    _, cache = MODEL.run_with_cache(prompt, names_filter="audio_encoder.hook_out")
    n_tokens = int(prompt.audio_mask.sum())
    torch.testing.assert_close(
        out[:, :n_tokens], cache["audio_encoder.hook_out"][:, :n_tokens], atol=1e-5, rtol=0
    )


def test_hook_point_of_an_encoder_block_knows_its_layer():
    assert MODEL.hook_dict["audio_encoder.blocks.1.attn.hook_z"].layer() == 1


def test_hook_point_of_a_decoder_block_knows_its_layer():
    assert MODEL.hook_dict["blocks.1.attn.hook_z"].layer() == 1


def test_hook_point_outside_the_blocks_has_no_layer():
    with pytest.raises(ValueError, match="not inside a block"):
        MODEL.hook_dict["ln_final.hook_scale"].layer()
