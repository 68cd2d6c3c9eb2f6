"""Random small Qwen2-Audio models, and random prompts for them."""

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from lens_audio import AudioPrompt, HookedAudioTransformer

torch.set_num_threads(1)

AUDIO_TOKEN = 3
PAD_TOKEN = 0


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model; the default is small and has grouped keys."""

    d_model: int = 32
    n_heads: int = 4
    kv_heads: int = 2
    d_head: int = 8
    n_layers: int = 2
    d_mlp: int = 44
    d_vocab: int = 60
    n_ctx: int = 128
    tied: bool = False
    audio_d_model: int = 24
    audio_heads: int = 3
    audio_layers: int = 2
    audio_d_mlp: int = 36
    n_mels: int = 8
    n_frames: int = 20  # of the encoder; a spectrogram has at most twice as many

    @classmethod
    def random(cls, seed: int) -> "Sizes":
        """Sizes with nothing round about them."""
        rng = random.Random(seed)
        n_heads = seed % 8 + 1
        kv_heads = rng.choice([n for n in range(1, n_heads + 1) if n_heads % n == 0])
        audio_heads = rng.randint(1, 4)
        return cls(
            d_model=rng.choice([17, 24, 33, 40]),
            n_heads=n_heads,
            kv_heads=kv_heads,
            d_head=rng.choice([2, 6, 8, 14]),
            n_layers=rng.randint(1, 3),
            d_mlp=rng.randint(5, 60),
            d_vocab=rng.randint(20, 90),
            tied=rng.random() < 0.3,
            audio_d_model=audio_heads * rng.randint(3, 9),
            audio_heads=audio_heads,
            audio_layers=rng.randint(1, 3),
            audio_d_mlp=rng.randint(5, 50),
            n_mels=rng.choice([5, 8, 16]),
            n_frames=rng.randint(12, 25),
        )


def hf_config(sizes: Sizes) -> Qwen2AudioConfig:
    """The transformers config of these sizes."""
    return Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": sizes.d_model,
            "head_dim": sizes.d_head,
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.kv_heads,
            "num_hidden_layers": sizes.n_layers,
            "intermediate_size": sizes.d_mlp,
            "vocab_size": sizes.d_vocab,
            "max_position_embeddings": sizes.n_ctx,
            "rms_norm_eps": 1e-5,
            "pad_token_id": PAD_TOKEN,
            "tie_word_embeddings": sizes.tied,
        },
        audio_config={
            "d_model": sizes.audio_d_model,
            "encoder_attention_heads": sizes.audio_heads,
            "encoder_layers": sizes.audio_layers,
            "encoder_ffn_dim": sizes.audio_d_mlp,
            "num_mel_bins": sizes.n_mels,
            "max_source_positions": sizes.n_frames,
        },
        audio_token_index=AUDIO_TOKEN,
        tie_word_embeddings=sizes.tied,
    )


def hf_model(
    sizes: Sizes, seed: int = 0, attn: str = "eager", dtype: torch.dtype = torch.float32
) -> Qwen2AudioForConditionalGeneration:
    """A transformers model whose every weight matters: no zero bias, no norm weight of one."""
    config = hf_config(sizes)
    config._attn_implementation = attn
    model = Qwen2AudioForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim == 1:
                weight.copy_(0.2 * noise)
            elif "embed" in name:
                weight.copy_(0.5 * noise)
            else:
                weight.copy_(noise / weight[0].numel() ** 0.5)
    if sizes.tied:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    return model.to(dtype)


def hooked_model(sizes: Sizes = Sizes(), seed: int = 0) -> HookedAudioTransformer:
    """Our model, over the weights of `hf_model(sizes, seed)`."""
    return HookedAudioTransformer.from_hf(hf_model(sizes, seed))


@dataclass(frozen=True)
class Layout:
    """The rows of a batch: text lengths, clips in mel frames, padding side."""

    n_text: list[int] = field(default_factory=lambda: [7])
    clips: list[list[int]] = field(default_factory=lambda: [[23]])  # one list a row
    padding_side: str = "left"

    @classmethod
    def random(cls, seed: int, max_frames: int) -> "Layout":
        """One to three rows, each with no, one or two clips; some layouts are text alone."""
        rng = random.Random(seed)
        n_rows = seed % 3 + 1
        n_clips = [0 if seed % 6 == 5 else rng.randint(0, 2) for _ in range(n_rows)]
        clips = [[rng.randint(6, max_frames) for _ in range(n)] for n in n_clips]
        n_text = [rng.randint(3, 12) for _ in range(n_rows)]
        return cls(n_text, clips, rng.choice(["left", "right"]))


def make_prompt(
    sizes: Sizes = Sizes(),
    layout: Layout = Layout(),
    seed: int = 0,
) -> AudioPrompt:
    """A random prompt of this layout; the spectrograms are padded to the encoder's full length."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n_text, clips in zip(layout.n_text, layout.clips, strict=True):
        text = torch.randint(4, sizes.d_vocab, (n_text,), generator=generator)
        pieces = [text[:2]]
        for n_frames in clips:
            n_tokens = ((n_frames - 1) // 2 + 1) // 2
            pieces += [torch.full((n_tokens,), AUDIO_TOKEN), text[2:3]]
        rows.append(torch.cat([*pieces, text[2:]]))
    length = max(map(len, rows))
    tokens = torch.full((len(rows), length), PAD_TOKEN)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), None) if layout.padding_side == "left" else slice(len(row))
        tokens[i, place], mask[i, place] = row, True
    lengths = torch.tensor([n for clips in layout.clips for n in clips], dtype=torch.long)
    mel = torch.randn(len(lengths), sizes.n_mels, 2 * sizes.n_frames, generator=generator)
    return AudioPrompt.from_tensors(
        tokens,
        mel if len(lengths) else None,
        lengths if len(lengths) else None,
        attention_mask=mask,
        audio_token_id=AUDIO_TOKEN,
    )


def hf_inputs(prompt: AudioPrompt) -> dict[str, Tensor]:
    """The prompt as transformers takes it, positions counted from each row's first real token."""
    mask = prompt.attention_mask.long()
    inputs = {
        "input_ids": prompt.tokens,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }
    if prompt.mel is not None:
        frames = torch.arange(prompt.mel.shape[2])
        inputs["input_features"] = prompt.mel
        inputs["feature_attention_mask"] = (frames < prompt.mel_lengths[:, None]).long()
    return inputs


def with_sound_of(prompt: AudioPrompt, other: AudioPrompt) -> AudioPrompt:
    """The same tokens over the other prompt's sound: what a patching pair is made of."""
    return AudioPrompt.from_tensors(
        prompt.tokens,
        other.mel,
        other.mel_lengths,
        attention_mask=prompt.attention_mask,
        audio_mask=prompt.audio_mask,
    )
