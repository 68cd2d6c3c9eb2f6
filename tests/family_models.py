"""Small random models of every family that transformers has, and transformers' own inputs for them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from models import AUDIO_TOKEN, PAD_TOKEN, Sizes, hf_config
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioForConditionalGeneration,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

from lens_audio import AudioPrompt, HookedAudioTransformer

CHUNK, AUT_CHUNK = 20, 100  # mel frames of a chunk; of the published Qwen2.5-Omni 200
OPENING, CLOSING = 1, 2  # tokens around a clip


def decoder(sizes: Sizes, model_type: str, **more: Any) -> dict[str, Any]:
    """The decoder's part of a config."""
    return {
        "model_type": model_type,
        "hidden_size": sizes.d_model,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.d_head,
        "num_hidden_layers": sizes.n_layers,
        "intermediate_size": sizes.d_mlp,
        "vocab_size": sizes.d_vocab,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "pad_token_id": PAD_TOKEN,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": sizes.tied,
    } | more


def encoder(sizes: Sizes, **more: Any) -> dict[str, Any]:
    """The Whisper encoder's, under the newer set of names."""
    return {
        "hidden_size": sizes.audio_d_model,
        "num_attention_heads": sizes.audio_heads,
        "num_hidden_layers": sizes.audio_layers,
        "intermediate_size": sizes.audio_d_mlp,
        "num_mel_bins": sizes.n_mels,
        "max_source_positions": sizes.n_frames,
    } | more


def qwen2_audio(sizes: Sizes) -> Any:
    config = hf_config(sizes)
    config.text_config.max_position_embeddings = 512
    return Qwen2AudioForConditionalGeneration, config


def qwen2_5_omni(sizes: Sizes) -> Any:
    d_head = sizes.d_model // sizes.n_heads  # its own rotary embedding knows no other
    thirds = d_head // 2 // 3, d_head // 2 // 3, d_head // 2 - 2 * (d_head // 2 // 3)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(thirds)}
    text = decoder(sizes, "qwen2_5_omni_text", rope_parameters=rope)
    del text["head_dim"]
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    vision |= {"out_hidden_size": sizes.d_model, "fullatt_block_indexes": [0]}
    audio = {
        "d_model": sizes.audio_d_model,
        "encoder_attention_heads": sizes.audio_heads,
        "encoder_layers": sizes.audio_layers,
        "encoder_ffn_dim": sizes.audio_d_mlp,
        "num_mel_bins": sizes.n_mels,
        "n_window": CHUNK // 2,
        "max_source_positions": 60,
        "output_dim": sizes.d_model,
    }
    config = Qwen2_5OmniThinkerConfig(
        audio_config=audio,
        vision_config=vision,
        text_config=text,
        audio_token_index=AUDIO_TOKEN,
        image_token_index=sizes.d_vocab + 1,
        video_token_index=sizes.d_vocab + 2,
        vision_start_token_id=sizes.d_vocab + 3,
        vision_end_token_id=sizes.d_vocab + 4,
        audio_start_token_id=OPENING,
        audio_end_token_id=CLOSING,
        tie_word_embeddings=sizes.tied,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration, config


def with_text(kind: type, sizes: Sizes, audio: dict[str, Any], text: str, **more: Any) -> Any:
    """A config of this kind over an encoder and a decoder of that type."""
    return kind(
        audio_config=audio,
        text_config=decoder(sizes, text),
        audio_token_id=AUDIO_TOKEN,
        tie_word_embeddings=sizes.tied,
        **more,
    )


def audio_flamingo_3(sizes: Sizes) -> Any:
    audio = encoder(sizes, model_type="audioflamingo3_encoder")
    config = with_text(AudioFlamingo3Config, sizes, audio, "qwen2")
    return AudioFlamingo3ForConditionalGeneration, config


def music_flamingo(sizes: Sizes) -> Any:
    audio = encoder(sizes, model_type="audioflamingo3_encoder")
    edges = {"audio_bos_token_id": OPENING, "audio_eos_token_id": CLOSING}
    config = with_text(MusicFlamingoConfig, sizes, audio, "qwen2", **edges)
    return MusicFlamingoForConditionalGeneration, config


def voxtral(sizes: Sizes) -> Any:
    audio = encoder(sizes, model_type="voxtral_encoder")
    return VoxtralForConditionalGeneration, with_text(VoxtralConfig, sizes, audio, "llama")


def glm_asr(sizes: Sizes) -> Any:
    audio = encoder(sizes, model_type="glmasr_encoder")
    audio["max_position_embeddings"] = audio.pop("max_source_positions")
    return GlmAsrForConditionalGeneration, with_text(GlmAsrConfig, sizes, audio, "llama")


def qwen3_asr(sizes: Sizes) -> Any:
    audio = {
        "model_type": "qwen3_asr_encoder",
        "num_mel_bins": sizes.n_mels,
        "d_model": sizes.audio_d_model,
        "encoder_attention_heads": sizes.audio_heads,
        "encoder_layers": sizes.audio_layers,
        "encoder_ffn_dim": sizes.audio_d_mlp,
        "n_window": AUT_CHUNK // 2,
        "n_window_infer": 2 * AUT_CHUNK,
        "downsample_hidden_size": 6,
        "max_position_embeddings": 13,
        "output_dim": sizes.d_model,
    }
    ends = {"pad_token_id": PAD_TOKEN, "eos_token_id": sizes.d_vocab}
    return Qwen3ASRForConditionalGeneration, with_text(
        Qwen3ASRConfig, sizes, audio, "qwen3", **ends
    )


def stacked_tokens(mel_frames: int) -> int:
    """Of a spectrogram, as transformers' GLM-ASR and Voxtral count: four frames side by side."""
    return ((mel_frames - 1) // 2 + 1 - 4) // 4 + 1


def aut_tokens(mel_frames: int) -> int:
    """As transformers' Qwen3-ASR counts: three halvings a chunk."""

    def halved(n: int) -> int:
        for _ in range(3):
            n = (n + 1) // 2
        return n

    return mel_frames // AUT_CHUNK * halved(AUT_CHUNK) + halved(mel_frames % AUT_CHUNK)


def whisper_tokens(mel_frames: int) -> int:
    """Audio tokens of a spectrogram, as transformers' Qwen2-Audio, Qwen2.5-Omni and Flamingos count."""
    return (((mel_frames - 1) // 2 + 1) - 2) // 2 + 1


@dataclass(frozen=True)
class FamilyCase:
    """What sets the inputs of one family apart from another's."""

    name: str
    config: Callable[[Sizes], Any]  # the transformers class, and its config
    mel_mask: str | None = "feature_attention_mask"
    n_tokens: Callable[[int], int] = whisper_tokens
    in_windows: bool = False  # a clip longer than a spectrogram is several
    whole_windows: bool = False  # each of them full, padded with silence
    stack: int = 1
    narrow_heads: bool = False  # heads that make up the decoder's width
    any_length: bool = False
    chunk: int = CHUNK
    max_clips: int = 2

    def sizes(self, seed: int) -> Sizes:
        """Random sizes that the family can have."""
        sizes = Sizes.random(seed)
        if self.any_length:  # computed positions
            sizes = replace(sizes, audio_d_model=2 * sizes.audio_d_model)
        if self.narrow_heads:
            d_head = random.Random(seed).choice([6, 8, 14])
            sizes = replace(sizes, d_head=d_head, d_model=d_head * sizes.n_heads)
        if self.in_windows:  # whole tokens of a window, as the published have
            sizes = replace(
                sizes, n_frames=2 * (sizes.n_frames // 2), audio_d_model=10 * sizes.audio_heads
            )
        if self.stack > 1:
            width = 8 * sizes.audio_heads
            sizes = replace(
                sizes,
                d_model=sizes.n_heads * (sizes.d_model // sizes.n_heads),
                n_frames=4 * (sizes.n_frames // 4),
                audio_d_model=width,
                audio_d_mlp=self.stack * width,
            )
        return sizes

    def build(self, sizes: Sizes, seed: int = 0, attn: str = "eager") -> Any:
        """A transformers model whose every weight matters."""
        cls, config = self.config(sizes)
        config._attn_implementation = attn
        model = cls(config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                if weight.ndim == 1 and name.endswith("weight"):
                    weight.copy_(1 + 0.2 * noise)
                elif weight.ndim == 1:
                    weight.copy_(0.2 * noise)
                elif "embed" in name:
                    weight.copy_(0.5 * noise)
                else:
                    weight.copy_(noise / weight[0].numel() ** 0.5)
        return model

    def longest(self, sizes: Sizes) -> int:
        """Mel frames of the longest clip to try: a spectrogram, or more than two windows or chunks."""
        if self.in_windows:
            return 5 * sizes.n_frames
        return 3 * self.chunk - 3 if self.any_length else 2 * sizes.n_frames

    def windows(self, sizes: Sizes, mel_frames: int) -> list[int]:
        """Mel frames of each spectrogram of a clip."""
        whole = 2 * sizes.n_frames
        if not self.in_windows:
            return [mel_frames]
        n_whole, rest = divmod(mel_frames, whole)
        if self.whole_windows:
            return [whole] * -(-mel_frames // whole)
        rest = rest if n_whole == 0 or self.n_tokens(rest) > 0 else 0  # Music Flamingo fails there
        return [whole] * n_whole + [rest] * (rest > 0)

    def inputs(
        self,
        sizes: Sizes,
        clips: Sequence[Sequence[int]],
        side: str = "left",
        seed: int = 0,
        longer: int = 1,
    ) -> dict[str, Tensor]:
        """The keyword arguments of the transformers model.

        `clips` are mel frames, one list a row; each row has so many more tokens of text than the one
        before it.
        """
        generator = torch.Generator().manual_seed(seed)
        rows, lengths = [], []
        for n_row, row in enumerate(clips):
            text = torch.randint(
                4, sizes.d_vocab, (5 + longer * n_row,), generator=generator
            ).tolist()
            ids = text[:2]
            for clip in row:
                parts = self.windows(sizes, clip)
                lengths += parts
                ids += [OPENING, *[AUDIO_TOKEN] * sum(map(self.n_tokens, parts)), CLOSING]
            rows.append(ids + text[2:])
        width = max(map(len, rows))
        pads = [[PAD_TOKEN] * (width - len(row)) for row in rows]
        left = side == "left"
        ids = [pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)]
        real = [[0] * len(pad) + [1] * len(row) for pad, row in zip(pads, rows, strict=True)]
        real = [row if left else row[::-1] for row in real]
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real)}
        if lengths:
            longest = self.chunk * (max(lengths) // self.chunk + 1)
            n_frames = longest if self.any_length else 2 * sizes.n_frames
            shape = (len(lengths), sizes.n_mels, n_frames)
            inputs["input_features"] = torch.randn(shape, generator=generator)
            if self.mel_mask is not None:
                inputs[self.mel_mask] = (
                    torch.arange(n_frames) < torch.tensor(lengths)[:, None]
                ).long()
        return inputs

    def random_inputs(self, sizes: Sizes, seed: int) -> dict[str, Tensor]:
        """One to three rows, left or right padded, with no, one or two clips of any length."""
        rng = random.Random(seed)
        rows = []
        for _ in range(seed % 3 + 1):
            n_clips = rng.randint(1 if self.max_clips == 1 else 0, self.max_clips)
            rows.append([rng.randint(8, self.longest(sizes)) for _ in range(n_clips)])
        return self.inputs(sizes, rows, rng.choice(["left", "right"]), seed)


FAMILY_CASES = [
    FamilyCase("Qwen2-Audio", qwen2_audio),
    FamilyCase("Qwen2.5-Omni", qwen2_5_omni, any_length=True, narrow_heads=True),
    FamilyCase(
        "Audio Flamingo 3", audio_flamingo_3, "input_features_mask", in_windows=True, max_clips=1
    ),
    FamilyCase(
        "Music Flamingo", music_flamingo, "input_features_mask", in_windows=True, max_clips=1
    ),
    FamilyCase(
        "Voxtral",
        voxtral,
        mel_mask=None,
        n_tokens=stacked_tokens,
        in_windows=True,
        whole_windows=True,
        stack=4,
    ),
    FamilyCase(
        "Qwen3-ASR",
        qwen3_asr,
        "input_features_mask",
        aut_tokens,
        any_length=True,
        chunk=AUT_CHUNK,
    ),
    FamilyCase(
        "GLM-ASR",
        glm_asr,
        "input_features_mask",
        stacked_tokens,
        in_windows=True,
        stack=4,
        max_clips=1,
    ),
]


def case(
    family: FamilyCase, seed: int, attn: str = "eager"
) -> tuple[Any, HookedAudioTransformer, dict[str, Tensor], AudioPrompt]:
    """A transformers model, ours over its weights, and both models' inputs."""
    sizes = family.sizes(seed)
    hf = family.build(sizes, seed, attn)
    ours = HookedAudioTransformer.from_hf(hf)
    inputs = family.random_inputs(sizes, seed)
    return hf, ours, inputs, ours.prompt_from_inputs(inputs)
