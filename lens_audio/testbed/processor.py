"""The embedded checkpoint's processor: real Qwen2-Audio parts, small.

A byte-level BPE tokenizer (so any text encodes) whose merges come from the testbed's own
sentences, Whisper log-mel features, and Qwen2-Audio's chat template.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer, WhisperFeatureExtractor

from lens_audio.testbed.items import (
    FIRM_CAPTIONS,
    PLAIN_CAPTIONS,
    QUESTIONS,
    YES_NO_QUESTIONS,
    options,
    with_article,
)
from lens_audio.testbed.sounds import CLASSES, SAMPLING_RATE

VOCAB_SIZE = 640
N_MELS = 64
CHUNK_SECONDS = 4
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO, AUDIO_BOS, AUDIO_EOS = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, AUDIO, AUDIO_BOS, AUDIO_EOS)


def corpus() -> Iterator[str]:
    """Every sentence the items are made of, and the chat template's words."""
    for category in CLASSES:
        sound = with_article(category)
        yield f"{category}\n"
        for wording in (*PLAIN_CAPTIONS, *FIRM_CAPTIONS, *YES_NO_QUESTIONS):
            yield wording.format(sound=sound)
    for pair in itertools.permutations([*CLASSES, "yes", "no"], 2):
        yield options(list(pair))
    for _ in range(20):  # often enough that each of their words becomes one token
        yield from QUESTIONS
        yield from (f" {wording}" for wording in (*QUESTIONS, *YES_NO_QUESTIONS))
        yield "system\nYou are a helpful assistant.\nuser\nAudio 1: \n"
        yield "assistant\n"


def build_tokenizer() -> Qwen2Tokenizer:
    """Train the BPE merges and give them to transformers' Qwen2 tokenizer."""
    alphabet_only = Qwen2Tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    backend = alphabet_only.backend_tokenizer
    backend.train_from_iterator(corpus(), trainer)
    vocab, merges = _vocab_and_merges(backend.to_str())
    tokenizer = Qwen2Tokenizer(
        vocab={**vocab, END_OF_TEXT: len(vocab)},
        merges=merges,  # type: ignore[arg-type]  # pairs, as the backend wants them
        pad_token=END_OF_TEXT,
        eos_token=TURN_END,
        padding_side="left",  # the last position is then the answer's, for every row
        extra_special_tokens=[TURN_START, AUDIO, AUDIO_BOS, AUDIO_EOS],
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def _vocab_and_merges(serialised: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The trained model without special tokens, ids renumbered from 0."""
    model = json.loads(serialised)["model"]
    vocab = {token: i for token, i in model["vocab"].items() if token not in SPECIAL_TOKENS}
    dense = {token: i for i, token in enumerate(sorted(vocab, key=vocab.__getitem__))}
    return dense, [(a, b) for a, b in model["merges"]]


def build_processor() -> Qwen2AudioProcessor:
    """The processor that is saved with the checkpoint."""
    features = WhisperFeatureExtractor(
        feature_size=N_MELS,
        sampling_rate=SAMPLING_RATE,
        chunk_length=CHUNK_SECONDS,
        return_attention_mask=True,
    )
    return Qwen2AudioProcessor(feature_extractor=features, tokenizer=build_tokenizer())


def chat_prompt(processor: Qwen2AudioProcessor, text: str, with_audio: bool = True) -> str:
    """The chat-template prompt of one user turn, up to and with the assistant's header."""
    content = [{"type": "audio", "audio_url": ""}] if with_audio else []
    content.append({"type": "text", "text": text})
    messages: Any = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return str(prompt)
