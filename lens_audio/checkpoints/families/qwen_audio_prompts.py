"""Qwen-Audio's tokenizer, features and prompt formats.

Source: tokenization_qwen.py, audio.py and qwen_generation_utils.py of QwenLM/Qwen-Audio.
"""

import base64
import binascii
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import BatchFeature, Qwen2AudioProcessor, Qwen2Tokenizer, WhisperFeatureExtractor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lens_audio.checkpoints.family import read_json
from lens_audio.config import AudioModelConfig

TEXT_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{i}|>" for i in range(205)),
)
AUDIO_PLACEHOLDER, AUDIO_START, AUDIO_END = "[[[AUDIO:modality]]]", "<audio>", "</audio>"
AUDIO_TOKENS = (
    AUDIO_PLACEHOLDER,
    *("<|startoftranscript|>", "<|startofanalysis|>"),
    *("<|translate|>", "<|transcribe|>", "<|caption|>", "<|keyword|>"),
    *("<|unknown|>", "<|en|>", "<|zh|>", "<|de|>", "<|es|>"),
    *("<|ko|>", "<|fr|>", "<|ja|>", "<|it|>", "<|zh_tr|>"),
    *("<|notimestamps|>", "<|sil|>", "<|timestamps|>"),
    *(f"<|{i * 0.01:.2f}|>" for i in range(3001)),  # seconds
    *("<|caption_audiocaps|>", "<|caption_clotho|>", "<|audioset_ontology|>", "<|caption_plain|>"),
    *("<|itn|>", "<|wo_itn|>"),
    *("<|startofentityvalue|>", "<|endofentityvalue|>"),
    *("<|startofentitytype|>", "<|endofentitytype|>"),
    *("<|named_entity_recognition|>", "<|audio_grounding|>"),
    *("<|startofword|>", "<|endofword|>", "<|delim|>"),
    *("<|emotion_recognition|>", "<|music_description|>", "<|note_analysis|>"),
    *("<|pitch|>", *(f"<|midi_pitch_{i}|>" for i in range(128))),
    *("<|velocity|>", *(f"<|midi_velocity_{i}|>" for i in range(128))),
    *("<|sonic|>", "<|instrument|>", "<|speaker_meta|>", "<|song_meta|>"),
    *("<|question|>", "<|answer|>", "<|choice|>", "<|scene|>", "<|event|>"),
    *("<|vocal_classification|>", "<|speech_understanding|>", "<|scenario|>", "<|action|>"),
    *("<|entities|>", "<|speech_edit|>"),
    *(AUDIO_START, AUDIO_END),
)

CHAT_FORMAT = "chatml"  # generation_config.json's, of Qwen-Audio-Chat
CLIP = AUDIO_START + AUDIO_PLACEHOLDER + AUDIO_END
CHAT_TEMPLATE = (
    "{% set clip = namespace(number=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'audio' %}"
    "{% set clip.number = clip.number + 1 %}Audio {{ clip.number }}:" + CLIP + "\n"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The base model is asked as eval_audio/evaluate_aqa.py does; other tasks are written out as raw=.
BASE_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'user' %}"
    "{{ raise_exception('the base model of Qwen-Audio has no ' + message['role'] + ' turn') }}"
    "{% endif %}{% for content in message['content'] %}{% if content['type'] == 'audio' %}"
    + CLIP
    + "{% else %}<|startofanalysis|><|en|><|question|>{{ content['text'] }}<|answer|>"
    "{% endif %}{% endfor %}{% endfor %}"
)


def read_processor(folder: Path, cfg: AudioModelConfig) -> tuple[Any, Any]:
    """Processor and tokenizer of a folder with qwen.tiktoken, else None twice.

    Raises:
        ValueError: for a vocabulary that is damaged or is not config.json's.
    """
    path = folder / "qwen.tiktoken"
    if not path.is_file():
        return None, None
    tokenizer = build_tokenizer(read_ranks(path))
    edges = tuple(tokenizer.encode(AUDIO_START + AUDIO_END))
    if edges != cfg.audio_edge_ids:
        raise ValueError(
            f"{path} makes {AUDIO_START} and {AUDIO_END} the tokens {edges}, config.json's "
            f"audio_start_id makes them {cfg.audio_edge_ids}. It is another model's vocabulary"
        )
    chat_format = read_json(folder / "generation_config.json").get("chat_format", "raw")
    audio = cfg.audio
    return build_processor(
        tokenizer, chat_format, audio.n_mels, audio.conv_stride * audio.n_ctx
    ), tokenizer


def build_processor(
    tokenizer: Qwen2Tokenizer, chat_format: str = "raw", n_mels: int = 80, n_frames: int = 3000
) -> Qwen2AudioProcessor:
    """transformers' processor for the second generation, with the first's tokens and features.

    `chat_format` is generation_config.json's: "chatml" of the chat model, "raw" of the base model.
    """
    extractor = WholeHopFeatureExtractor(feature_size=n_mels, chunk_length=n_frames // 100)
    return Qwen2AudioProcessor(
        extractor,
        tokenizer,
        chat_template=CHAT_TEMPLATE if chat_format == CHAT_FORMAT else BASE_TEMPLATE,
        audio_token=AUDIO_PLACEHOLDER,
        audio_bos_token=AUDIO_START,
        audio_eos_token=AUDIO_END,
    )


class WholeHopFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel spectrogram; a frame counts if its whole hop of samples is in the clip.

    So does the reference, samples // hop_length, where Whisper's own extractor rounds up.
    """

    def __call__(self, raw_speech: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        features = super().__call__(raw_speech, *args, **kwargs)
        if "attention_mask" in features:
            for mask, wave in zip(features["attention_mask"], raw_speech, strict=True):
                mask[len(wave) // self.hop_length :] = 0
        return features


def read_ranks(path: Path) -> dict[bytes, int]:
    """A tiktoken vocabulary: byte strings and their ids, which are their merge ranks, too.

    Raises:
        ValueError: for a file that is no such vocabulary.
    """
    try:
        lines = (line.split() for line in path.read_bytes().splitlines() if line)
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise ValueError(
            f"{path} is no tiktoken vocabulary ({error}); download it again"
        ) from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{path} lacks some of its {len(ranks)} ranks; download it again")
    return ranks


def build_tokenizer(
    ranks: dict[bytes, int], special_tokens: Sequence[str] = TEXT_TOKENS + AUDIO_TOKENS
) -> Qwen2Tokenizer:
    """The vocabulary as a fast tokenizer, the special tokens after it in their order."""
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [tuple(map(text, last_merge(token, ranks))) for token in ranks if len(token) > 1]
    tokenizer = Qwen2Tokenizer(
        vocab={text(token): rank for token, rank in ranks.items()},
        merges=merges,  # type: ignore[arg-type]  # pairs, as the backend wants them
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(t, special=True) for t in special_tokens])
    return tokenizer


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts whose merge makes `token`: byte pair encoding stopped just before its rank."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pair_ranks = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        best = pair_ranks.index(min(pair_ranks))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
