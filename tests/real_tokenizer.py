"""The real Qwen2-Audio vocabulary and processor, built from `../shared/data/qwen/qwen.tiktoken`."""

import base64
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer, WhisperFeatureExtractor
from transformers.convert_slow_tokenizer import bytes_to_unicode

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
    lines = shared_data("qwen/qwen.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


@cache
def real_tokenizer() -> Qwen2Tokenizer:
    """A Qwen2-Audio tokenizer with the real vocabulary and special tokens."""
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocab = {text(token): rank for token, rank in ranks().items()}
    merges = [tuple(map(text, _last_merge(token))) for token in ranks() if len(token) > 1]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


@cache
def real_processor() -> Qwen2AudioProcessor:
    """A Qwen2-Audio processor as the published checkpoint has it: 128 mel bins, 30 s."""
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    return Qwen2AudioProcessor(extractor, real_tokenizer())


def _last_merge(token: bytes) -> tuple[bytes, bytes]:
    """The two parts whose merge makes `token`: byte pair encoding stopped just before its rank."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pair_ranks = [ranks().get(a + b, len(ranks())) for a, b in pairwise(parts)]
        best = pair_ranks.index(min(pair_ranks))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
