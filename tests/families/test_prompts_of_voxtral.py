"""Voxtral's prompts, made by its real processor over a small tokenizer in mistral-common's format.

On Python 3.11 mistral-common asks for an older numpy than the development packages have, so it is
none of them:
`pip install --no-deps mistral-common pydantic-extra-types pycountry` runs these tests.
"""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from family_models import FAMILY_CASES
from family_processors import RATE, sound

import lens_audio as la

pytest.importorskip("mistral_common")
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers import MistralCommonBackend, VoxtralProcessor, WhisperFeatureExtractor

VOXTRAL = next(family for family in FAMILY_CASES if family.name == "Voxtral")
AUDIO = {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
N_SPECIAL = 36


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """Its vocabulary are the bytes; the ids of the special tokens are the published."""
    tokens = list(Tekkenizer.DEPRECATED_SPECIAL_TOKENS)
    tokens += [
        {"rank": rank, "token_str": AUDIO.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(len(tokens), N_SPECIAL)
    ]
    vocab = [
        {"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode(), "token_str": None}
        for n in range(256)
    ]
    spectrograms = {"num_mel_bins": 8, "hop_length": 160, "window_size": 400}
    tekken = {
        "config": {
            "pattern": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+",
            "num_vocab_tokens": 256,
            "default_vocab_size": 256 + N_SPECIAL,
            "default_num_special_tokens": N_SPECIAL,
            "version": "v7",
        },
        "vocab": vocab,
        "special_tokens": tokens,
        "audio": {
            "sampling_rate": RATE,
            "frame_rate": 12.5,
            "chunk_length_s": 30.0,
            "audio_encoding_config": spectrograms,
        },
    }
    path = tmp_path_factory.mktemp("voxtral") / "tekken.json"
    path.write_text(json.dumps(tekken))
    extractor = WhisperFeatureExtractor(feature_size=8)
    return VoxtralProcessor(extractor, MistralCommonBackend(path))


@pytest.fixture(scope="module")
def models(processor):
    sizes = replace(VOXTRAL.sizes(1), d_vocab=256 + N_SPECIAL, n_mels=8, n_frames=1500, tied=False)
    cls, config = VOXTRAL.config(sizes)
    config.audio_token_id = processor.audio_token_id
    config.text_config.max_position_embeddings = 8192
    torch.manual_seed(0)
    hf = cls(config).eval()
    return hf, la.HookedAudioTransformer.from_hf(hf)


def inputs_of(processor, rows):
    """Of conversations with clips of so many seconds."""

    def clip(seconds):
        file = io.BytesIO()
        soundfile.write(file, sound(seconds), RATE, format="WAV")
        return {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}

    question = {"type": "text", "text": "What?"}
    conversations = [
        [{"role": "user", "content": [*map(clip, seconds), question]}] for seconds in rows
    ]
    return processor.apply_chat_template(conversations, return_tensors="pt")


@torch.no_grad()
@pytest.mark.parametrize("rows", [[[3.3]], [[70.0]], [[1.2, 31.0], [6.1]]])
def test_logits_over_the_processors_inputs_are_transformers(processor, models, rows):
    hf, ours = models
    inputs = inputs_of(processor, rows)
    real = inputs["attention_mask"].bool()
    found = ours(ours.prompt_from_inputs(inputs))
    torch.testing.assert_close(found[real], hf(**inputs).logits[real], atol=1e-4, rtol=0)


def test_token_counts_of_fifty_lengths(processor, models):
    _, ours = models
    for seconds in np.linspace(0.05, 59.9, 50):
        inputs = inputs_of(processor, [[seconds]])
        n_windows = -(-len(sound(seconds)) // (30 * RATE))
        n_tokens = int((inputs["input_ids"] == processor.audio_token_id).sum())
        assert n_tokens == n_windows * ours.cfg.audio.n_tokens(3000)


def test_clips_are_windows_of_thirty_seconds(processor, models):
    _, ours = models
    prompt = ours.prompt_from_inputs(inputs_of(processor, [[70.0]]))
    assert [list(prompt.windows_of(clip)) for clip in range(prompt.n_clips)] == [[0, 1, 2]]
