"""Whisper, of which the encoder alone is loaded (`lens_audio.HookedAudioEncoder`)."""

from pathlib import Path
from typing import Any

from transformers import WhisperConfig, WhisperFeatureExtractor

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, InTransformers, Json
from lens_audio.config import AudioEncoderConfig


def read_config(config: Json, generation: Json) -> AudioEncoderConfig:
    """The encoder's sizes. It has no pool, and attends to the silence that fills its window."""
    whole: Any = WhisperConfig.from_dict(config | {"model_type": "whisper"})
    sizes = parts.whisper_sizes(whole, where="config.json")
    return AudioEncoderConfig(**sizes, pool=1, masks_padding=False)


def read_processor(folder: Path, cfg: Any) -> tuple[Any, Any]:
    """The feature extractor, and no tokenizer; None where the folder lacks its file."""
    if not (folder / "preprocessor_config.json").is_file():
        return None, None
    return WhisperFeatureExtractor.from_pretrained(folder), None


WHISPER = Family(
    name="Whisper",
    architectures=("WhisperForConditionalGeneration", "WhisperModel"),
    model_types=("whisper",),
    read_config=read_config,
    read_processor=read_processor,
    names=parts.whisper_names(tower="model.encoder")
    | {"model.decoder.*": (), "proj_out.*": (), "lm_head.*": ()},
    aliases={r"^(?=(encoder|decoder)\.)": "model."},
    fields={
        **dict.fromkeys(("d_model", "encoder_ffn_dim", "num_mel_bins"), fields.WIDTH),
        "encoder_layers": fields.LAYERS,
        "encoder_attention_heads": fields.HEADS,
        "max_source_positions": fields.POSITIONS,
        "activation_function": fields.ACTIVATION,
    },
    in_transformers=InTransformers(
        decoder="model.decoder",
        encoder_blocks="model.encoder.layers",
        encoder_out="model.encoder.layer_norm",
        projector="",
    ),
)
