"""Real recordings and the real vocabulary, from a checkpoint folder to an answer, beside transformers."""

import pytest
import torch
from real_tokenizer import real_processor, shared_data
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from lens_audio import HookedAudioTransformer

RECORDINGS = [
    "audio/1272-128104-0000.flac",
    "audio/1272-128104-0000-middle_classes.wav",
    "audio/es.mp3",
    "audio/glass-breaking-151256.mp3",
    "mmau/test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A narrow Qwen2-Audio with the real one's mel bins, window and vocabulary."""
    config = Qwen2AudioConfig(
        audio_config={
            "d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 48,
        },
        text_config={
            "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "vocab_size": 156032, "max_position_embeddings": 8192,
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("narrow")
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(path)
    real_processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return HookedAudioTransformer.from_pretrained(folder, device="cpu", verbose=False)


@pytest.fixture(scope="module")
def reference(folder):
    return Qwen2AudioForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("recording", RECORDINGS)
def test_a_recording_gives_the_logits_and_tokens_of_transformers(model, reference, recording):
    prompt = model.prompt("What do you hear?", audio=shared_data(recording), max_seconds=30.0)
    frames = torch.arange(prompt.mel.shape[2])
    inputs = {
        "input_ids": prompt.tokens,
        "attention_mask": prompt.attention_mask.long(),
        "input_features": prompt.mel,
        "feature_attention_mask": (frames < prompt.mel_lengths[:, None]).long(),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(prompt), reference(**inputs).logits, atol=1e-4, rtol=0)
        theirs = reference.generate(**inputs, max_new_tokens=4, do_sample=False)
    ours = model.generate(prompt, 4, return_type="tokens", stop_at_eos=False)
    assert torch.equal(ours, theirs[:, prompt.tokens.shape[1] :])


def test_the_real_token_ids_are_the_documented_ones(model):
    ids = [model.to_single_token(t) for t in ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")]
    assert ids == [151646, 151647, 151648]
