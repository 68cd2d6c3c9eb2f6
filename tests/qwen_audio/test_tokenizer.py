"""The tokenizer's ids are those of the reference's own, to the id."""

import random

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_audio_golden import golden_tokenizer
from qwen_audio_models import VOCABULARY
from real_tokenizer import ranks

from lens_audio.checkpoints.families.qwen_audio_prompts import (
    AUDIO_TOKENS,
    TEXT_TOKENS,
    build_tokenizer,
    read_ranks,
)

GOLDEN = golden_tokenizer()
# Source: tokenization_qwen.py of QwenLM/Qwen-Audio.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(ranks())


def test_size_of_the_vocabulary(tokenizer):
    assert len(tokenizer) == GOLDEN["n_vocab"]


@pytest.mark.parametrize("case", GOLDEN["strings"], ids=lambda case: case["text"][:20])
def test_ids_of_texts(tokenizer, case):
    assert tokenizer.encode(case["text"]) == case["ids"]


@pytest.mark.parametrize("token", GOLDEN["special"])
def test_ids_of_special_tokens(tokenizer, token):
    assert tokenizer.encode(token) == [GOLDEN["special"][token]]


@pytest.mark.parametrize("case", GOLDEN["strings"], ids=lambda case: case["text"][:20])
def test_texts_come_back(tokenizer, case):
    assert tokenizer.decode(case["ids"]) == case["text"]


def test_agrees_with_tiktoken_on_whatever_the_vocabulary_is_made_of(tokenizer):
    """Sequences of real tokens, which is where merges could go other ways."""
    vocabulary = ranks()
    encoding = tiktoken.Encoding(
        "qwen", pat_str=PATTERN, mergeable_ranks=vocabulary, special_tokens={}
    )
    rng, tokens = random.Random(0), sorted(vocabulary)
    texts = [
        "".join(t.decode("utf-8", "ignore") for t in rng.choices(tokens, k=30)) for _ in range(300)
    ]
    texts = [tokenizer.backend_tokenizer.normalizer.normalize_str(text) for text in texts]
    assert [tokenizer.encode(t) for t in texts] == [encoding.encode_ordinary(t) for t in texts]


SMALL = {token: i for i, token in enumerate(VOCABULARY)}
SMALL_TOKENIZER = build_tokenizer(SMALL)
SMALL_ENCODING = tiktoken.Encoding(
    "small", pat_str=PATTERN, mergeable_ranks=SMALL, special_tokens={}
)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="thein ga\n'1é", max_size=40))
def test_agrees_with_tiktoken_on_any_text(text):
    assert SMALL_TOKENIZER.encode(text) == SMALL_ENCODING.encode_ordinary(text)


def test_special_tokens_follow_the_vocabulary_in_order():
    ids = SMALL_TOKENIZER.convert_tokens_to_ids([*TEXT_TOKENS, *AUDIO_TOKENS])
    assert ids == list(range(len(SMALL), len(SMALL) + 3522))


@pytest.mark.parametrize(
    "content", [b"no vocabulary", b"YQ== 0\nYg== 2\n", b"YQ== x\n", b"\xff\xfe 1"]
)
def test_a_damaged_vocabulary_is_named(tmp_path, content):
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"qwen\.tiktoken"):
        read_ranks(path)
