"""Small models of every family with the family's real processor, built of its special tokens."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from family_models import FAMILY_CASES, FamilyCase
from transformers import (
    AudioFlamingo3Processor,
    AutoTokenizer,
    GlmAsrProcessor,
    MusicFlamingoProcessor,
    Qwen2_5OmniProcessor,
    Qwen2AudioProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRProcessor,
    WhisperFeatureExtractor,
)

import lens_audio as la
from lens_audio.checkpoints.families import FAMILIES

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{{ 'PLACE' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OMNI = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def tokenizer(**special):
    """The embedded checkpoint's, with the special tokens of a family and their names."""
    return AutoTokenizer.from_pretrained(la.testbed.checkpoint_dir(), extra_special_tokens=special)


def qwen2_audio():
    special = tokenizer()
    extractor = WhisperFeatureExtractor(feature_size=8)
    return Qwen2AudioProcessor(extractor, special, chat_template=TEMPLATE.replace("PLACE", OMNI))


def omni():
    special = tokenizer(
        image_token="<|IMAGE|>", audio_token="<|AUDIO|>", video_token="<|VIDEO|>",
        vision_bos_token="<|vision_bos|>", vision_eos_token="<|vision_eos|>",
        audio_bos_token="<|audio_bos|>", audio_eos_token="<|audio_eos|>",
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(
        feature_size=8, chunk_length=40
    )  # 300 of the published, which takes long
    images = Qwen2VLImageProcessor(), Qwen2VLVideoProcessor()
    template = TEMPLATE.replace("PLACE", OMNI)
    return Qwen2_5OmniProcessor(*images, extractor, special, chat_template=template)


def flamingo(cls):
    special = tokenizer(audio_token="<sound>", bos="<|sound_bos|>", eos="<|sound_eos|>")
    extractor = WhisperFeatureExtractor(feature_size=8)
    return cls(extractor, special, chat_template=TEMPLATE.replace("PLACE", "<sound>"))


def qwen3_asr():
    special = tokenizer(
        audio_token="<|audio_pad|>",
        audio_bos_token="<|audio_start|>",
        audio_eos_token="<|audio_end|>",
    )
    template = TEMPLATE.replace("PLACE", "<|audio_start|><|audio_pad|><|audio_end|>")
    extractor = Qwen3ASRFeatureExtractor(feature_size=8)
    return Qwen3ASRProcessor(extractor, special, chat_template=template)


def glm_asr():
    special = tokenizer(
        audio_token="<|pad|>", opening="<|begin_of_audio|>", closing="<|end_of_audio|>"
    )
    template = TEMPLATE.replace("PLACE", "<|begin_of_audio|><|pad|><|end_of_audio|>")
    extractor = WhisperFeatureExtractor(feature_size=8)
    return GlmAsrProcessor(extractor, special, chat_template=template)


PROCESSORS = {
    "Qwen2-Audio": qwen2_audio,
    "Qwen2.5-Omni": omni,
    "Audio Flamingo 3": lambda: flamingo(AudioFlamingo3Processor),
    "Music Flamingo": lambda: flamingo(MusicFlamingoProcessor),
    "Qwen3-ASR": qwen3_asr,
    "GLM-ASR": glm_asr,
}
RATE = 16000
EITHER_WAY = ["Audio Flamingo 3", "Qwen3-ASR"]  # a long clip in windows, or as one spectrogram
CASES = {family.name: family for family in FAMILY_CASES}


def either_way_with_long_clips(names: list[str]) -> list[Any]:
    """These families, of which one of either way is for every change and the rest is `long`."""
    return [n if n in EITHER_WAY else pytest.param(n, marks=pytest.mark.long) for n in names]


@cache
def talking_hf_model(name: str) -> tuple[Any, Any]:
    """A small transformers model with windows and chunks as long as the published, and its processor."""
    family: FamilyCase = CASES[name]
    processor = PROCESSORS[name]()
    place = next(f for f in FAMILIES if f.name == name).prompt_parts.clip(processor)[1]
    sizes = replace(
        family.sizes(1), d_vocab=len(processor.tokenizer), n_mels=8, n_frames=1500, tied=False,
        n_layers=4, n_heads=8, kv_heads=4, d_head=6, d_model=48,
    )  # fmt: skip
    cls, config = family.config(sizes)
    for name_of_it in ("audio_token_id", "audio_token_index"):
        if hasattr(config, name_of_it):
            setattr(config, name_of_it, processor.tokenizer.convert_tokens_to_ids(place))
    if name == "Qwen2.5-Omni":
        config.audio_config.n_window = 100
        config.audio_config.max_source_positions = 1500
    config.text_config.max_position_embeddings = 8192
    torch.manual_seed(0)
    return cls(config).eval(), processor


@cache
def model_of(name: str) -> la.HookedAudioTransformer:
    """Ours over it."""
    return la.HookedAudioTransformer.from_hf(*talking_hf_model(name))


def sound(seconds, seed=0):
    n = round(seconds * RATE)
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def ask(name, seconds, **options):
    return model_of(name).prompt("What?", audio=sound(seconds), sampling_rate=RATE, **options)
