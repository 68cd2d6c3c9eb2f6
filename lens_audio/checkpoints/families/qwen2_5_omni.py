"""The thinker of Qwen2.5-Omni, which hears and answers in text; it has no use for images here."""

from typing import Any

from transformers import Qwen2_5OmniThinkerConfig

from lens_audio.checkpoints import fields, parts
from lens_audio.checkpoints.family import Family, Json
from lens_audio.config import AudioEncoderConfig, AudioModelConfig

FIELDS = {
    "audio_token_index": fields.TOKEN,
    "audio_token_id": fields.TOKEN,
    "tie_word_embeddings": fields.FLAG,
    **parts.decoder_fields("qwen2_5_omni_text"),
    **parts.whisper_fields("qwen2_5_omni_audio_encoder"),
    "audio_config.n_window": fields.POSITIONS,
}


def read_config(config: Json, generation: Json) -> AudioModelConfig:
    """The sizes, of a thinker's own config.json or of the whole model's.

    Without images the multimodal rotary embedding is the plain one.
    """
    thinker = config.get("thinker_config") or config
    whole: Any = Qwen2_5OmniThinkerConfig.from_dict(
        thinker | {"model_type": "qwen2_5_omni_thinker"}
    )
    audio = whole.audio_config
    own = {  # the text's own flag says nothing here
        "model_name": getattr(whole, "name_or_path", "") or "qwen2_5_omni",
        "tie_word_embeddings": whole.tie_word_embeddings,
    }
    chunk = 2 * audio.n_window
    sizes = parts.whisper_sizes(audio)
    if sizes["d_model"] % 2 or sizes["d_model"] < 4:
        raise ValueError(f"audio_config: d_model {sizes['d_model']} has no sinusoidal positions")
    return AudioModelConfig(
        **parts.model_sizes(whole, generation) | own,
        audio=AudioEncoderConfig(
            **sizes,
            positional_embedding_type="sinusoidal",
            chunk_frames=chunk,
            window_frames=chunk,
            zeros_after_clip=True,
            max_windows=None,
        ),
    )


QWEN2_5_OMNI = Family(
    name="Qwen2.5-Omni",
    architectures=(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5OmniForConditionalGeneration",
        "Qwen2_5OmniModel",
    ),
    model_types=("qwen2_5_omni_thinker", "qwen2_5_omni"),
    read_config=read_config,
    read_processor=parts.read_processor,
    names=parts.decoder_names("model", head="")
    | parts.whisper_names(final_norm="ln_post")
    | {
        "audio_tower.proj.*": "audio_projector.linear.*",
        "audio_tower.audio_bos_eos_token.weight": (),  # which its own code does not read either
        "visual.*": (),
        "talker.*": (),
        "token2wav.*": (),
    },
    aliases={
        r"^thinker\.": "",
        r"^model\.(?=audio_tower|visual)": "",
        r"^model\.language_model\.": "model.",
    },
    fields={
        "thinker_config": fields.or_null(fields.OBJECT),
        **FIELDS,
        **parts.under("thinker_config", FIELDS),
    },
    in_transformers=parts.in_transformers(
        "ln_post",
        projector="model.audio_tower.proj",
        inside={"Qwen2_5OmniForConditionalGeneration": "thinker", "Qwen2_5OmniModel": "thinker"},
    ),
)
