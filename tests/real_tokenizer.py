"""The real Qwen2-Audio vocabulary and processor, built from `../shared/data/qwen/qwen.tiktoken`."""

from functools import cache
from pathlib import Path

import pytest
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer, WhisperFeatureExtractor

from lens_audio.checkpoints.families.qwen_audio_prompts import build_tokenizer, read_ranks

DATA = Path(__file__).parents[2] / "shared" / "data"
SPECIAL_TOKENS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|AUDIO|>": 151646,
    "<|audio_bos|>": 151647,
    "<|audio_eos|>": 151648,
}


def shared_data(path: str) -> Path:
    """A file of the shared data folder; skips the test where it is absent."""
    if not (DATA / path).exists():
        pytest.skip(f"no ../shared/data/{path}")
    return DATA / path


@cache
def ranks() -> dict[bytes, int]:
    """The vocabulary's 151,643 byte strings and their ids, which are also their merge ranks."""
    return read_ranks(shared_data("qwen/qwen.tiktoken"))


@cache
def real_tokenizer() -> Qwen2Tokenizer:
    """A Qwen2-Audio tokenizer with the real vocabulary and special tokens."""
    return build_tokenizer(ranks(), tuple(SPECIAL_TOKENS))


@cache
def real_processor() -> Qwen2AudioProcessor:
    """A Qwen2-Audio processor as the published checkpoint has it: 128 mel bins, 30 s."""
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    return Qwen2AudioProcessor(extractor, real_tokenizer())
