"""What config.json of published checkpoints says of their sizes, each with where it was read.

Where an encoder gives no sizes they are the defaults of transformers' config of it: Whisper large's.
No checkpoint was opened for this: what a config.json says is as public code quotes it.
"""

from typing import Any


def whisper(model_type: str) -> dict[str, Any]:
    """The encoder of Whisper large v3, under the names of Qwen's configs."""
    return {
        "model_type": model_type,
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
    }


def omni(text: dict[str, Any]) -> dict[str, Any]:
    """The whole model's config.json, with the thinker inside."""
    text = text | {"model_type": "qwen2_5_omni_text", "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    audio = whisper("qwen2_5_omni_audio_encoder") | {"output_dim": text["hidden_size"]}
    thinker = {"model_type": "qwen2_5_omni_thinker", "audio_config": audio, "text_config": text}
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "thinker_config": thinker,
    }


def flamingo(architecture: str, model_type: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "audio_config": {"model_type": "audioflamingo3_encoder"},
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rope_theta": 1e6,
            "vocab_size": 151672,
        },
    }


def voxtral(text: dict[str, Any]) -> dict[str, Any]:
    text = text | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    return {
        "architectures": ["VoxtralForConditionalGeneration"],
        "model_type": "voxtral",
        "audio_token_id": 24,
        "audio_config": {"model_type": "voxtral_encoder"},
        "text_config": text | {"model_type": "llama", "vocab_size": 131072},
    }


def qwen3_asr(audio: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    text = text | heads | {"model_type": "qwen3", "num_hidden_layers": 28, "vocab_size": 151936}
    audio = audio | {"model_type": "qwen3_asr_encoder", "output_dim": text["hidden_size"]}
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "audio_config": audio | {"downsample_hidden_size": 480, "num_mel_bins": 128},
        "text_config": text,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    # Qwen/Qwen2-Audio-7B's config.json; its `text_config` leaves out what Qwen2Config had as defaults
    # then, which is written out here.
    "Qwen2-Audio-7B": {
        "architectures": ["Qwen2AudioForConditionalGeneration"],
        "model_type": "qwen2_audio",
        "audio_token_index": 151646,
        "audio_config": whisper("qwen2_audio_encoder"),
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 156032,
        },
    },
    # Qwen/Qwen2.5-Omni-3B's config.json, as Tyr/Model/Qwen25Omni/Config.lean quotes it. Its files hold
    # a head of its own, thinker.lm_head.
    "Qwen2.5-Omni-3B (thinker)": omni(
        {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        }
    ),
    # Qwen/Qwen2.5-Omni-7B: the defaults of transformers' Qwen2_5OmniTextConfig.
    "Qwen2.5-Omni-7B (thinker)": omni(
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        }
    ),
    # transformers' convert_audioflamingo3_to_hf.py, which made nvidia/audio-flamingo-3-hf.
    "Audio Flamingo 3": flamingo("AudioFlamingo3ForConditionalGeneration", "audioflamingo3"),
    # The same decoder; the vocabulary's size as loaded in foldl/chatllm.cpp, issue 118.
    "Music Flamingo": flamingo("MusicFlamingoForConditionalGeneration", "musicflamingo"),
    # mistralai/Voxtral-Mini-3B-2507: the defaults of transformers' VoxtralConfig.
    "Voxtral Mini 3B": voxtral(
        {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30}
    ),
    # mistralai/Voxtral-Small-24B-2507: the decoder is Mistral Small 3.1's (arXiv 2507.13264), whose
    # config.json these are of.
    "Voxtral Small 24B": voxtral(
        {"hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40}
    ),
    # zai-org/GLM-ASR-Nano-2512: the defaults of transformers' GlmAsrConfig.
    "GLM-ASR Nano": {
        "architectures": ["GlmAsrForConditionalGeneration"],
        "model_type": "glmasr",
        "audio_config": {"model_type": "glmasr_encoder"},
        "text_config": {
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "vocab_size": 59264,
        },
    },
    # Qwen/Qwen3-ASR-0.6B's config.json, as docs/asr-model.md of ivan-digital/qwen3-asr-swift quotes it.
    "Qwen3-ASR 0.6B": qwen3_asr(
        {
            "d_model": 896,
            "encoder_layers": 18,
            "encoder_attention_heads": 14,
            "encoder_ffn_dim": 3584,
        },
        {"hidden_size": 1024, "intermediate_size": 3072},
    ),
    # Qwen/Qwen3-ASR-1.7B-hf: the defaults of transformers' Qwen3ASRConfig.
    "Qwen3-ASR 1.7B": qwen3_asr(
        {
            "d_model": 1024,
            "encoder_layers": 24,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
        },
        {"hidden_size": 2048, "intermediate_size": 6144},
    ),
}
