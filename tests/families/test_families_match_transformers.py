"""Every family's logits, encoder, projector and answers are transformers' own."""

import pytest
import torch
from family_models import FAMILY_CASES, case
from models import PAD_TOKEN
from transformers import GenerationConfig

from lens_audio import HookedAudioTransformer
from lens_audio.checkpoints.hf import family_of_model

ATOL = 1e-4
SEEDS = range(6)
families = pytest.mark.parametrize("family", FAMILY_CASES, ids=lambda family: family.name)


def at_tokens(prompt, encoded):
    """What stands at the spectrograms' own audio tokens, [all tokens, width]."""
    lengths = prompt.timing.n_tokens(prompt.mel_lengths)
    return encoded[torch.arange(encoded.shape[1]) < lengths[:, None]]


@torch.no_grad()
def recorded(hf, inputs):
    """transformers' outputs of the encoder's last norm and the projector, and its logits."""
    family, _ = family_of_model(hf)
    where, seen = family.in_transformers, {}
    handles = [
        hf.get_submodule(path).register_forward_hook(
            lambda module, args, out, path=path: seen.update({path: out})
        )
        for path in (where.encoder_out, where.projector)
    ]
    logits = hf(**inputs).logits
    for handle in handles:
        handle.remove()
    return seen.get(where.encoder_out), seen.get(where.projector), logits


@families
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@torch.no_grad()
def test_logits(family, seed, attn):
    hf, ours, inputs, prompt = case(family, seed, attn)
    real = inputs["attention_mask"].bool()
    expected = hf(**inputs).logits
    torch.testing.assert_close(ours(prompt)[real], expected[real], atol=ATOL, rtol=0)


@families
@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_encoder_and_projector(family, seed):
    hf, ours, inputs, prompt = case(family, seed)
    encoded, projected, _ = recorded(hf, inputs)
    if prompt.mel is None:
        pytest.skip("a batch of text alone")
    _, cache = ours.run_with_cache(prompt)
    for name, expected in {
        "audio_encoder.hook_out": encoded,
        "audio_projector.hook_out": projected,
    }.items():
        expected = expected if expected.ndim == 2 else at_tokens(prompt, expected)
        found = at_tokens(prompt, cache[name])
        torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)


@families
@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_hooks_on_everything_change_nothing(family, seed):
    """Patterns are then computed in full, and no padding is left out."""
    _, ours, inputs, prompt = case(family, seed)
    real = inputs["attention_mask"].bool()
    logits, _ = ours.run_with_cache(prompt)
    torch.testing.assert_close(logits[real], ours(prompt)[real], atol=1e-5, rtol=0)


@families
@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_greedy_answers(family, seed):
    hf, ours, _, _ = case(family, seed)
    sizes = family.sizes(seed)
    inputs = family.inputs(sizes, [[11], [family.longest(sizes)]], "left", seed)
    hf.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, pad_token_id=PAD_TOKEN
    )
    expected = hf.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    found = ours.generate(
        ours.prompt_from_inputs(inputs), 8, stop_at_eos=False, return_type="tokens", verbose=False
    )
    assert torch.equal(found, expected)


@families
@torch.no_grad()
def test_bfloat16_is_no_further_from_float32_than_transformers_own(family):
    errors = torch.zeros(2)  # theirs and ours
    for seed in range(1, 12, 2):
        hf, ours, inputs, prompt = case(family, seed)
        exact, real = ours(prompt), inputs["attention_mask"].bool()
        if "input_features" not in inputs:
            continue
        hf = hf.to(torch.bfloat16)
        inputs["input_features"] = inputs["input_features"].to(torch.bfloat16)
        found = hf(**inputs).logits, HookedAudioTransformer.from_hf(hf)(prompt)
        errors += torch.stack([(x - exact)[real].pow(2).mean().sqrt() for x in found])
    assert errors[1] <= 1.1 * errors[0]


def test_the_random_cases_cover_what_can_differ():
    for family in FAMILY_CASES:
        all_sizes = [family.sizes(seed) for seed in SEEDS]
        inputs = [family.random_inputs(sizes, seed) for seed, sizes in enumerate(all_sizes)]
        assert any(sizes.kv_heads < sizes.n_heads for sizes in all_sizes), "grouped keys"
        assert any(sizes.tied for sizes in all_sizes)
        assert any(not x["attention_mask"][:, 0].all() for x in inputs), "left padding"
        assert any(not x["attention_mask"][:, -1].all() for x in inputs), "right padding"
        n_windows = [len(x["input_features"]) for x in inputs if "input_features" in x]
        assert max(n_windows) > 2, "several clips, or windows of a clip"


@pytest.mark.long
@families
@torch.no_grad()
def test_every_length_of_a_clip(family):
    """Over two windows or chunks, token counts included."""
    sizes = family.sizes(1)
    hf = family.build(sizes, 1)
    ours = HookedAudioTransformer.from_hf(hf)
    for length in range(1, family.longest(sizes) + 1):
        if any(family.n_tokens(window) < 1 for window in family.windows(sizes, length)):
            continue  # a window that is too short makes no token
        inputs = family.inputs(sizes, [[length]], seed=length)
        found, expected = ours(ours.prompt_from_inputs(inputs)), hf(**inputs).logits
        torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)
