"""Questions and audio in, an AudioPrompt out: chat template, placeholders, clips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from lens_audio.config import AudioModelConfig, AudioTiming, PromptParts
from lens_audio.inputs.audio import Rate
from lens_audio.inputs.conversation import Conversation, begin_answers, read_conversations, render
from lens_audio.inputs.loading import check_placeholders, clip_rows, load_clips
from lens_audio.inputs.prompt import AudioPrompt
from lens_audio.inputs.timing import Seconds


def build_prompt(
    processor: Any,
    question: str | Sequence[str] | None = None,
    audio: Any = None,
    *,
    raw: str | Sequence[str] | None = None,
    messages: Any = None,
    prefix: str | Sequence[str] = "",
    sampling_rate: Rate | None = None,
    max_seconds: Seconds | None = None,
    system: str | None = None,
    padding_side: str = "left",
    device: str | torch.device = "cpu",
    cfg: AudioModelConfig | None = None,
) -> AudioPrompt:
    """A prompt, or a padded batch of prompts, about audio.

    `question`: a string or a list of them; the processor's chat template puts the clips before
    the question and opens the assistant's turn, after `system` (default: the template's own). Both
    are plain text: special tokens written in them are refused.
    `messages`: instead, a conversation in transformers' chat form, or a list of them. A message is
    {"role": "system", "user" or "assistant", "content": text or parts}, a part {"type": "text",
    "text": ...} or {"type": "audio", "audio": clip} ("audio_url" for a path, too). Parts without a
    clip take those of `audio`, in order. A last message of the assistant is the beginning of the
    answer, as with transformers' `continue_final_message`.
    `raw`: instead, the whole text(s) with one placeholder a clip (the processor's `audio_token`,
    `<|AUDIO|>` in Qwen2-Audio), or with a clip's path between the tokens that open and close a
    clip (`<audio>glass.wav</audio>` in Qwen-Audio). Without `audio` the paths are read; with it
    they are only names.
    `prefix`: a beginning of the answer, which the model continues: one for all rows or one a row. It
    stands as it is behind the text, with which it is tokenised as one, so that a leading space or
    newline counts. Special tokens in it are refused.
    `audio`: for one question None, a clip or a list of clips; for a list of questions a list with
    one entry a question: None, a clip or a list of clips. A clip is a path, an open file, a file's
    bytes, an array or tensor at `sampling_rate` Hz, a pair (array, rate), or a row's audio in a
    Hugging Face data set: see `load_audio`, as for `max_seconds`.
    `cfg`: the `model.cfg` of the model to be asked, by which a clip's tokens and their times are
    counted (default: as Qwen2-Audio's).

    Raises ValueError for questions, placeholders and clips that do not fit together, and what
    `load_audio` raises, with the clip named in a note.
    """
    if processor is None or getattr(processor, "tokenizer", None) is None:
        raise ValueError(
            "There is no processor to make a prompt with: its checkpoint folder lacks the files "
            "of the tokenizer (tokenizer.json and tokenizer_config.json, or qwen.tiktoken) or of the "
            "feature extractor (preprocessor_config.json). Add them, or pass tensors with "
            "AudioPrompt.from_tensors."
        )
    if sum(given is not None for given in (question, raw, messages)) != 1:
        raise ValueError("Give either a question or raw= text or messages=: one of the three.")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}.")
    if system is not None and question is None:
        raise ValueError(
            "system= is part of the chat template: write it into the raw= text, or as the first of "
            "the messages="
        )
    parts = PromptParts() if cfg is None else cfg.prompt_parts
    timing = AudioTiming() if cfg is None else cfg.audio.timing
    if raw is not None:
        texts, rows = _as_given(processor, raw, audio, parts)
        forced = [""] * len(texts)
    else:
        conversations, rows = _conversations(question, messages, audio, system)
        texts = render(processor, conversations, parts)
        forced = [one.prefix for one in conversations]
    texts = begin_answers(processor, texts, prefix, forced, parts)
    check_placeholders(texts, rows, processor, parts)
    waveforms = load_clips(processor, rows, sampling_rate, max_seconds, timing)
    return AudioPrompt.from_texts(
        processor,
        texts,
        waveforms,
        padding_side=padding_side,
        device=device,
        timing=timing,
        parts=parts,
    )


def _as_given(
    processor: Any, raw: str | Sequence[str], audio: Any, parts: PromptParts
) -> tuple[list[str], list[list[Any]]]:
    """The texts, a placeholder for each clip, and the clips of each."""
    texts = _texts(raw)
    rows = clip_rows(audio, None if isinstance(raw, str) else len(texts))
    texts, named = take_out_paths(texts, *parts.clip(processor))
    return texts, named if audio is None else rows


def _conversations(
    question: Any, messages: Any, audio: Any, system: str | None
) -> tuple[list[Conversation], list[list[Any]]]:
    """What is said, and the clips of each conversation."""
    if messages is not None:
        conversations, is_one = read_conversations(messages)
        given = clip_rows(audio, None if is_one else len(conversations))
    else:
        questions = _texts(question)
        given = clip_rows(audio, None if isinstance(question, str) else len(questions))
        asked = zip(questions, given, strict=True)
        conversations = [Conversation.asking(text, len(clips), system) for text, clips in asked]
    pairs = enumerate(zip(conversations, given, strict=True))
    return conversations, [one.with_clips(clips, number) for number, (one, clips) in pairs]


def take_out_paths(
    texts: Sequence[str], opens: str, audio_token: str, closes: str
) -> tuple[list[str], list[list[Any]]]:
    """The texts with placeholders for the clips that they name by their paths, and those paths.

    None is named where a family has no tokens to open and close a clip.
    """
    if not opens or not closes:
        return list(texts), [[] for _ in texts]
    clip = re.compile(f"{re.escape(opens)}(.*?){re.escape(closes)}")
    paths: list[list[Any]] = [
        [path for path in clip.findall(text) if audio_token not in path] for text in texts
    ]
    placed = [
        clip.sub(lambda m: m[0] if audio_token in m[1] else opens + audio_token + closes, text)
        for text in texts
    ]
    return placed, paths


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise ValueError("The list of questions is empty: give at least one.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Prompt {number} must be a string, not {type(text).__name__}.")
        if not text.strip():
            raise ValueError(f"Prompt {number} is empty: write a question.")
    return texts
