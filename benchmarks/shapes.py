"""The models that the benchmarks run: real architecture, random weights, built by transformers."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

import lens_audio as la
from lens_audio.testbed.processor import build_tokenizer


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2-Audio."""

    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int
    d_vocab: int
    audio_d_model: int
    audio_layers: int
    audio_heads: int

    def config(self) -> Qwen2AudioConfig:
        return Qwen2AudioConfig(
            audio_config={
                "model_type": "qwen2_audio_encoder",
                "d_model": self.audio_d_model,
                "encoder_layers": self.audio_layers,
                "encoder_attention_heads": self.audio_heads,
                "encoder_ffn_dim": 4 * self.audio_d_model,
            },
            text_config={
                "model_type": "qwen2",
                "hidden_size": self.d_model,
                "intermediate_size": self.d_mlp,
                "num_hidden_layers": self.n_layers,
                "num_attention_heads": self.n_heads,
                "num_key_value_heads": self.n_heads,
                "vocab_size": self.d_vocab,
                "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-5,
                "bos_token_id": None,
                "eos_token_id": None,
            },
            audio_token_index=self.d_vocab - 3,
        )


SHAPES = {
    "46M": Shape(512, 12, 8, 1024, 2600, 384, 6, 6),
    "7B": Shape(4096, 32, 32, 11008, 156032, 1280, 32, 20),
}

N_AUDIO, N_TEXT = 750, 32  # a clip of 30 s and a short question: 782 tokens


def build(shape: Shape, device: str, dtype: torch.dtype) -> Qwen2AudioForConditionalGeneration:
    """The transformers model, with sdpa attention, seeded."""
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2AudioForConditionalGeneration(shape.config())
    finally:
        torch.set_default_dtype(previous)
    return model.eval()


def build_processor() -> Qwen2AudioProcessor:
    """Features of 128 mel bins and 30 s, and the testbed's tokenizer."""
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    return Qwen2AudioProcessor(extractor, build_tokenizer())


def thirty_seconds(shape: Shape, device: str, dtype: torch.dtype) -> la.AudioPrompt:
    """A prompt of 782 tokens, 750 of them audio."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, shape.d_vocab - 4, (1, N_AUDIO + N_TEXT), generator=generator)
    tokens[:, 4 : 4 + N_AUDIO] = shape.d_vocab - 3
    mel = torch.randn(1, 128, 3000, generator=generator).to(dtype)
    lengths = torch.tensor([3000])
    prompt = la.AudioPrompt.from_tensors(tokens, mel, lengths, audio_token_id=shape.d_vocab - 3)
    return prompt.to(device)


def hf_inputs(prompt: la.AudioPrompt) -> dict[str, torch.Tensor]:
    """The same prompt as transformers' keyword arguments."""
    frames = torch.arange(prompt.mel.shape[2], device=prompt.mel.device)
    return {
        "input_ids": prompt.tokens,
        "attention_mask": prompt.attention_mask.long(),
        "input_features": prompt.mel,
        "feature_attention_mask": (frames < prompt.mel_lengths[:, None]).long(),
    }


def boot_bridge(hf_model: Qwen2AudioForConditionalGeneration, device: str, dtype: torch.dtype):
    """TransformerLens's TransformerBridge over the same weights."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        hf_model.save_pretrained(Path(folder))
        return TransformerBridge.boot_transformers(folder, device=device, dtype=dtype)
