"""Logits and every activation are transformers' own, over random configurations."""

import pytest
import torch
from models import Layout, Sizes, hf_inputs, hf_model, hooked_model, make_prompt
from torch import Tensor
from transformers_reference import run_reference

from lens_audio import AudioPrompt, HookedAudioTransformer

SEEDS = range(24)
ATOL = 1e-4


def case(seed: int, attn: str = "eager") -> tuple:
    sizes = Sizes.random(seed)
    hf = hf_model(sizes, seed, attn)
    prompt = make_prompt(sizes, Layout.random(seed, 2 * sizes.n_frames), seed)
    return hf, HookedAudioTransformer.from_hf(hf), prompt


def assert_same_logits(theirs: Tensor, ours: Tensor, prompt: AudioPrompt) -> None:
    real = prompt.attention_mask
    torch.testing.assert_close(ours[real], theirs[real], atol=ATOL, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@torch.no_grad()
def test_logits(seed, attn):
    hf, ours, prompt = case(seed, attn)
    assert_same_logits(hf(**hf_inputs(prompt)).logits, ours(prompt), prompt)


@torch.no_grad()
def test_the_random_cases_cover_what_can_differ():
    cases = [case(seed) for seed in SEEDS]
    cfgs, prompts = [c[1].cfg for c in cases], [c[2] for c in cases]
    assert {cfg.n_heads for cfg in cfgs} == set(range(1, 9))
    assert any(cfg.n_key_value_heads for cfg in cfgs)
    assert any(cfg.tie_word_embeddings for cfg in cfgs)
    assert any(prompt.mel is None for prompt in prompts)
    assert any(not p.attention_mask[:, 0].all() for p in prompts), "left padding"
    assert any(not p.attention_mask[:, -1].all() for p in prompts), "right padding"
    assert any(len(p.clips_of(i)) == 2 for p in prompts for i in range(len(p)))
    assert any(len(p.clips_of(0)) == 0 and p.n_clips for p in prompts), "text among audio"


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_every_hook(seed):
    hf, ours, prompt = case(seed)
    _, expected = run_reference(hf, prompt)
    _, cache = ours.run_with_cache(prompt)
    found = {name: cache[name] for name in cache}
    for norm in [name for name in found if name.endswith("hook_normalized")]:
        found[affine_name(norm)] = affine(ours, norm, found.pop(norm))
    found.pop("hook_audio_embed", None)  # tested below
    assert set(found) == set(expected)
    for name, value in expected.items():
        compare(name, found[name], value, prompt)


def affine_name(name: str) -> str:
    return name.replace("hook_normalized", "normalized_affine")


def affine(model: HookedAudioTransformer, name: str, normalized: Tensor) -> Tensor:
    """With the weights that the reference cannot take out of its norm's output."""
    norm = model.get_submodule(name.removesuffix(".hook_normalized"))
    return normalized * norm.w + getattr(norm, "b", 0)


def compare(name: str, found: Tensor, expected: Tensor, prompt: AudioPrompt) -> None:
    """At real positions; scores and patterns at real queries and the keys they may read."""
    assert found.shape == expected.shape, name
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        visible = visible_pairs(prompt, encoder=name.startswith("audio"))
        visible = visible.expand_as(found)
        if name.endswith("hook_pattern"):
            queries = visible.any(-1)
            assert (found[queries] * ~visible[queries] == 0).all(), name
        else:
            assert (found[~visible & visible.any(-1, keepdim=True)] == -torch.inf).all(), name
        found, expected = found[visible], expected[visible]
    elif name.startswith("audio"):
        pass  # the reference computes the frames of padding too, and so do we
    else:
        found, expected = found[prompt.attention_mask], expected[prompt.attention_mask]
    torch.testing.assert_close(
        found, expected, atol=ATOL, rtol=0, msg=lambda text: f"{name}: {text}"
    )


def visible_pairs(prompt: AudioPrompt, encoder: bool) -> Tensor:
    """[row, 1, query, key]: the pairs that count."""
    if encoder:
        n_frames = (prompt.mel_lengths - 1) // 2 + 1
        total = prompt.mel.shape[2] // 2
        keys = torch.arange(total) < n_frames[:, None]
        return keys[:, None, None, :].expand(-1, -1, total, -1)
    real = prompt.attention_mask
    causal = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).tril()
    return (real[:, :, None] & real[:, None, :] & causal)[:, None]


@torch.no_grad()
def test_hook_audio_embed_is_what_lies_at_the_audio_positions():
    sizes = Sizes()
    ours, prompt = hooked_model(sizes), make_prompt(sizes, Layout([4, 6], [[23], [9, 30]]))
    _, cache = ours.run_with_cache(prompt, names_filter=["hook_audio_embed", "hook_embed"])
    lengths = [((n - 1) // 2 + 1) // 2 for n in prompt.mel_lengths.tolist()]
    clips = [e[:n] for e, n in zip(cache["hook_audio_embed"], lengths, strict=True)]
    torch.testing.assert_close(
        cache["hook_embed"][prompt.audio_mask], torch.cat(clips), atol=0, rtol=0
    )
