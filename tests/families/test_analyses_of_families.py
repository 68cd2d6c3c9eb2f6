"""What stands on the model stands on every family: patching, attribution, lenses, steering."""

from types import SimpleNamespace

import pytest
import torch
import transformer_lens.patching as tl_patching
from family_models import FAMILY_CASES, case
from models import PAD_TOKEN
from transformers import GenerationConfig, WhisperFeatureExtractor

import lens_audio as la
from lens_audio.analysis import audio_attention
from lens_audio.analysis.logit_lens import encoder_lens, logit_lens
from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching import positions_by, sweep, time_windows
from lens_audio.analysis.patching.attribution import attribute
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.steering import AudioSilenceSteering

families = pytest.mark.parametrize("family", FAMILY_CASES, ids=lambda family: family.name)
IN_WINDOWS = [family for family in FAMILY_CASES if family.in_windows]
METRIC = logit_diff(5, 7)
SEED = 1


def pair(family, clips, size=1.0, rows=1):
    """A model, a clean prompt of these clips and one over other sound."""
    sizes = family.sizes(SEED)
    ours = la.HookedAudioTransformer.from_hf(family.build(sizes, SEED))
    inputs = family.inputs(sizes, [clips] * rows, seed=SEED, longer=0)
    noise = torch.randn(
        inputs["input_features"].shape, generator=torch.Generator().manual_seed(SEED)
    )
    other = inputs | {"input_features": inputs["input_features"] + size * noise}
    return ours, ours.prompt_from_inputs(inputs), ours.prompt_from_inputs(other)


def long_pair(family, **kwargs):
    return pair(family, [family.longest(family.sizes(SEED))], **kwargs)


@families
@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "audio_embed", "z", "k"])
def test_fast_patching_agrees_with_naive(family, site):
    model, clean, corrupted = long_pair(family, rows=2)
    windows = time_windows(clean, max(0.2, clean.clip_seconds(0) / 5))
    heads = "each" if site in ("z", "k") else None
    found = [
        sweep(
            model, clean, corrupted, site, METRIC,
            positions=windows, heads=heads, engine=engine, verbose=False,
        ).values
        for engine in ("fast", "naive")
    ]  # fmt: skip
    assert found[1].std() > 0
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


@families
@pytest.mark.parametrize("site", ["resid_pre", "z", "attn_out"])
def test_fast_patching_agrees_with_naive_in_the_encoder(family, site):
    model, clean, corrupted = long_pair(family)
    n_frames = len(clean.frame_labels())
    groups = {"start": range(n_frames // 2), "rest": range(n_frames // 2, n_frames)}
    found = [
        sweep(
            model, clean, corrupted, f"audio_encoder.{site}", METRIC,
            positions=groups, engine=engine, verbose=False,
        ).values
        for engine in ("fast", "naive")
    ]  # fmt: skip
    assert found[1].std() > 0
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("engine", ["fast", "naive"])
@pytest.mark.parametrize("family", IN_WINDOWS, ids=lambda family: family.name)
def test_time_windows_of_a_long_clip_in_the_encoder_are_patched_as_by_hand(family, engine):
    """Some of the windows of 0.215 s begin in one spectrogram and end in the next."""
    model, clean, corrupted = long_pair(family, rows=2)
    site, seconds = "audio_encoder.resid_post", 0.215
    windows, _ = positions_by("window", site, clean, seconds)
    found = sweep(model, clean, corrupted, site, METRIC, positions=windows, engine=engine,
                  layers=[0], verbose=False).values[0, 0]  # fmt: skip
    name = "audio_encoder.blocks.0.hook_resid_post"
    _, cache = model.run_with_cache(clean, names_filter=name)
    per_spectrogram = clean.timing.n_frames(clean.timing.mel_per_window)
    middles = clean.audio_times(0).mean(1)

    def by_hand(number):
        def patch(resid, hook):
            resid = resid.clone()
            for clip in range(2):
                for n, one in enumerate(clean.windows_of(clip)):
                    tokens = (torch.arange(n * per_spectrogram, (n + 1) * per_spectrogram)
                              // clean.timing.frames_per_token)  # fmt: skip
                    for frame, token in enumerate(tokens.tolist()):
                        if token < len(middles) and middles[token] // seconds == number:
                            resid[one, frame] = cache[name][one, frame]
            return resid

        return METRIC(model.run_with_hooks(corrupted, fwd_hooks=[(name, patch)])[:, -1])

    expected = torch.stack([by_hand(number) for number in range(len(windows))])
    assert len(windows) > 2
    assert expected.std(0).min() > 0
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", IN_WINDOWS, ids=lambda family: family.name)
def test_clips_of_unequally_many_spectrograms_are_patched_by_group_in_the_decoder_alone(family):
    model, long, _ = long_pair(family)
    _, _, short = pair(family, [family.sizes(SEED).n_frames])
    both = la.data.pair(long, short, "group", window=0.1)
    fast, naive = (
        sweep(model, both, site="resid_pre", metric=METRIC, engine=engine, verbose=False).values
        for engine in ("fast", "naive")
    )
    assert naive.std() > 0
    torch.testing.assert_close(fast, naive, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"clean are \(3,\) spectrograms .* corrupted \(1,\)"):
        sweep(model, both, site="audio_encoder.resid_post", metric=METRIC, verbose=False)


@families
def test_attribution_is_the_effect_of_a_small_difference(family):
    model, clean, corrupted = pair(family, [family.sizes(SEED).n_frames], size=1e-3)
    model = model.double()
    for site in ("z", "audio_encoder.resid_pre"):
        estimated = attribute(model, clean, corrupted, METRIC, sites=[site])[site]
        exact = sweep(
            model, clean, corrupted, site, METRIC,
            positions="each", heads="each" if site == "z" else None, verbose=False,
        )  # fmt: skip
        effect = exact.values - exact.base
        found = estimated.values - estimated.base
        torch.testing.assert_close(found, effect, atol=float(2e-2 * effect.abs().max()), rtol=0)


@families
def test_paths_from_all_heads_to_the_logits_are_finite_and_not_all_alike(family):
    model, clean, corrupted = long_pair(family)
    result = path_patch(model, clean, corrupted, METRIC, verbose=False)
    assert result.values.isfinite().all()
    assert result.values.std() > 0


@families
@torch.no_grad()
def test_transformer_lens_patching_runs_unchanged(family):
    model, clean, corrupted = long_pair(family)
    _, cache = model.run_with_cache(clean)
    with model.listening_to(corrupted):
        theirs = tl_patching.get_act_patch_attn_head_out_all_pos(
            model, corrupted.tokens, cache, lambda logits: METRIC(logits[:, -1]).mean()
        )
    ours = sweep(model, clean, corrupted, "z", METRIC, positions="all", heads="each", verbose=False)
    torch.testing.assert_close(ours.values.flatten(), theirs.flatten(), atol=1e-4, rtol=0)


@families
@torch.no_grad()
def test_a_cache_is_transformer_lens_own(family):
    model, clean, _ = long_pair(family)
    _, cache = model.run_with_cache(clean)
    parts = cache.decompose_resid(mlp_input=False, apply_ln=False)
    final = cache["resid_post", -1]
    torch.testing.assert_close(parts.sum(0), final, atol=1e-4, rtol=0)


@families
@torch.no_grad()
def test_audio_attention_is_the_patterns_last_row(family):
    model, clean, _ = long_pair(family)
    _, cache = model.run_with_cache(clean)
    attention = audio_attention(model, clean)
    places = clean.audio_positions(0)
    for layer in range(model.cfg.n_layers):
        expected = cache["pattern", layer][0, :, -1, places]
        torch.testing.assert_close(attention[0, layer], expected, atol=1e-5, rtol=0)


@families
@torch.no_grad()
def test_both_lenses_end_with_the_models_own_answer(family):
    model, clean, _ = long_pair(family)
    expected = model(clean)[:, -1].log_softmax(-1)
    torch.testing.assert_close(encoder_lens(model, clean, None)[:, -1], expected, atol=1e-4, rtol=0)
    lens = logit_lens(model, clean, tokens=None, positions="last")
    torch.testing.assert_close(lens.flatten(0, -2)[-1], expected[0], atol=1e-4, rtol=0)


def silent_features(model, prompt):
    """A processor that knows what Whisper's features of silence are."""
    window = prompt.mel.shape[2]
    extractor = WhisperFeatureExtractor(feature_size=model.cfg.audio.n_mels)
    extractor.n_samples = window * extractor.hop_length
    return SimpleNamespace(feature_extractor=extractor, tokenizer=None)


@families
@pytest.mark.parametrize("adaptive", ["constant", "listening"])
def test_steering_a_transformers_model_is_steering_ours(family, adaptive):
    hf, ours, _, _ = case(family, SEED)
    sizes = family.sizes(SEED)
    inputs = family.inputs(sizes, [[11], [family.longest(sizes)]], "left", SEED)
    prompt = ours.prompt_from_inputs(inputs)
    object.__setattr__(prompt, "processor", silent_features(ours, prompt))
    heads = tuple((layer, 0) for layer in range(ours.cfg.n_layers))
    steering = AudioSilenceSteering(heads, 2.0, adaptive)
    hf.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=5, pad_token_id=PAD_TOKEN
    )
    real = inputs["attention_mask"].bool()
    with torch.no_grad(), steering.attach(ours):
        answer = ours.generate(prompt, 5, stop_at_eos=False, return_type="tokens", verbose=False)
        logits = ours(prompt)
    with torch.no_grad(), steering.attach_to_hf(hf):
        theirs = hf(**inputs).logits
        generated = hf.generate(**inputs)[:, real.shape[1] :]
    torch.testing.assert_close(theirs[real], logits[real], atol=1e-3, rtol=0)
    assert torch.equal(generated, answer)
    assert (logits - ours(prompt))[real].abs().max() > 1e-2, "the steering does something"
