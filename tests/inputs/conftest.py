import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer, WhisperFeatureExtractor
from transformers.convert_slow_tokenizer import bytes_to_unicode

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def processor() -> Qwen2AudioProcessor:
    """A real processor, small: one token a byte, 16 mel bins, clips of at most 2 s."""
    vocab = {letter: i for i, letter in enumerate(bytes_to_unicode().values())}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    special = ["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special])
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    return Qwen2AudioProcessor(extractor, tokenizer)


@pytest.fixture
def noise():
    """noise(n): n samples of noise within [-1, 1], the same at every call."""

    def make(n: int) -> np.ndarray:
        return np.random.default_rng(n).uniform(-0.5, 0.5, n).astype(np.float32)

    return make
