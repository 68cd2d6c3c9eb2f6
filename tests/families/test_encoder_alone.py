"""An encoder without its decoder: Whisper's against transformers', and those of audio models."""

import numpy as np
import pytest
import torch
from family_models import FAMILY_CASES
from safetensors.torch import load_file, save_file
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)

import lens_audio as la

families = pytest.mark.parametrize("family", FAMILY_CASES, ids=lambda family: family.name)


def whisper(cls=WhisperForConditionalGeneration, seed=0, **sizes):
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=24, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=20,
        decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=20, num_mel_bins=8,
        max_source_positions=50, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    model = cls(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def mel(n=2):
    return torch.randn(n, 8, 100, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cls", [WhisperForConditionalGeneration, WhisperModel])
@pytest.mark.parametrize("from_folder", [False, True])
@torch.no_grad()
def test_every_layer_is_transformers_own(cls, from_folder, tmp_path):
    hf = whisper(cls)
    if from_folder:
        hf.save_pretrained(tmp_path)
        encoder = la.HookedAudioEncoder.from_pretrained(tmp_path, device="cpu")
    else:
        encoder = la.HookedAudioEncoder.from_hf(hf)
    expected = hf.get_encoder()(mel(), output_hidden_states=True)
    out, cache = encoder.run_with_cache(mel(), torch.tensor([100, 37]))
    found = [cache["blocks.0.hook_resid_pre"]]
    found += [cache[f"blocks.{layer}.hook_resid_post"] for layer in range(2)]
    for ours, theirs in zip([*found, out], [*expected.hidden_states[:3], expected[0]], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_memory_is_shared_with_a_transformers_model():
    hf = whisper()
    encoder = la.HookedAudioEncoder.from_hf(hf)
    assert encoder.blocks[0].mlp.up_proj.weight is hf.model.encoder.layers[0].fc1.weight


def test_features_of_clips_are_the_feature_extractors(tmp_path):
    whisper().save_pretrained(tmp_path)
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    extractor.save_pretrained(tmp_path)
    encoder = la.HookedAudioEncoder.from_pretrained(tmp_path, device="cpu", verbose=False)
    clips = [np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32) for n in (9000, 400)]
    found, lengths = encoder.features(clips, 16000)
    expected = extractor(clips, sampling_rate=16000, return_tensors="pt")["input_features"]
    assert torch.equal(found, expected)
    assert lengths.tolist() == [57, 3]
    assert encoder(found, lengths).shape == (2, 50, 24)
    with pytest.raises(ValueError, match="hears at most 1 s"):
        encoder.features(np.zeros(17000, np.float32), 16000)


def test_without_an_extractor_features_says_what_to_give():
    with pytest.raises(ValueError, match=r"encoder\(mel, mel_lengths\)"):
        la.HookedAudioEncoder.from_hf(whisper()).features(np.zeros(9000), 16000)


def test_a_tensor_of_the_encoder_that_is_missing_is_named(tmp_path):
    whisper().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.encoder.layers.1.fc1.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: model\.encoder\.layers\.1\.fc1\.bias"):
        la.HookedAudioEncoder.from_pretrained(tmp_path, device="cpu")


@families
@torch.no_grad()
def test_the_encoder_of_an_audio_model_is_its_own(family, tmp_path):
    sizes = family.sizes(1)
    hf = family.build(sizes, 1)
    hf.save_pretrained(tmp_path)
    whole = la.HookedAudioTransformer.from_hf(hf)
    alone = la.HookedAudioEncoder.from_pretrained(tmp_path, device="cpu")
    prompt = whole.prompt_from_inputs(family.inputs(sizes, [[23]]))
    expected = whole.audio_encoder(prompt.mel, prompt.mel_lengths)
    assert torch.equal(alone(prompt.mel, prompt.mel_lengths), expected)
    assert type(alone) is type(whole.audio_encoder)
    shared = la.HookedAudioEncoder.from_hf(hf)
    assert torch.equal(shared(prompt.mel, prompt.mel_lengths), expected)
