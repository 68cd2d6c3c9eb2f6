"""Conversations in transformers' chat form: who says what, and the clips in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from lens_audio.config import PromptParts

ROLES = ("system", "user", "assistant")
CLIP_KEYS = ("audio", "audio_url", "path", "url")


@dataclass
class Conversation:
    """What a chat template takes, and what it does not: the clips, and the answer's beginning."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    clips: list[Any] = field(default_factory=list)  # in order; None where it is given apart
    prefix: str = ""

    @classmethod
    def asking(cls, question: str, n_clips: int, system: str | None = None) -> Conversation:
        """One question after its clips."""
        opening = [] if system is None else [{"role": "system", "content": system}]
        content: list[dict[str, Any]] = [{"type": "audio"} for _ in range(n_clips)]
        content.append({"type": "text", "text": question})
        return cls.of([*opening, {"role": "user", "content": content}])

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]], number: int = 0) -> Conversation:
        """The conversation of some messages; one that the assistant ends is to be continued.

        Raises:
            ValueError, TypeError: for messages that are not of the chat form, with what is wrong.
        """
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise TypeError(
                f"Conversation {number} must be a list of messages, not {type(messages).__name__}."
            )
        if not messages:
            raise ValueError(f"Conversation {number} is empty: give at least one message.")
        read = cls()
        for place, message in enumerate(messages):
            read._add(message, f"Message {place} of conversation {number}")
        if read.messages[-1]["role"] == "assistant":
            read.prefix = "".join(_said(read.messages.pop()))
        if not read.messages:
            raise ValueError(f"Conversation {number} holds nothing that the assistant answers.")
        return read

    def with_clips(self, given: Sequence[Any], number: int) -> list[Any]:
        """All clips in order, those given apart in the places that were left to them.

        Raises:
            ValueError: unless they are as many as the places.
        """
        n_left = sum(clip is None for clip in self.clips)
        if n_left != len(given):
            raise ValueError(
                f"Conversation {number} leaves {n_left} clips to audio=, which gives {len(given)}. "
                "Put a clip into each {'type': 'audio', 'audio': clip}, or give one in audio= for "
                "each that has none."
            )
        rest = iter(given)
        return [next(rest) if clip is None else clip for clip in self.clips]

    def _add(self, message: Any, where: str) -> None:
        if not isinstance(message, Mapping):
            raise TypeError(f"{where} must be a dictionary, not {type(message).__name__}.")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"{where} is of role {role!r}; there are {', '.join(ROLES)}.")
        if isinstance(content, str):
            parts = [{"type": "text", "text": content}]
        elif isinstance(content, Sequence):
            parts = [self._part(part, role, where) for part in content]
        else:
            raise ValueError(
                f"{where} has the content {content!r}: give a text or a list of parts."
            )
        texts = [part["text"] for part in parts if part["type"] == "text"]
        if role == "user" and len(texts) == len(parts) and not "".join(texts).strip():
            raise ValueError(f"{where} is empty: write a question, or give a clip.")
        as_text = isinstance(content, str) and role != "user"
        self.messages.append({"role": role, "content": content if as_text else parts})

    def _part(self, part: Any, role: str, where: str) -> dict[str, str]:
        """The part as a template takes it; a clip is kept apart."""
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        if kind != "audio":
            raise ValueError(
                f"{where} has a part that is neither {{'type': 'text', 'text': ...}} nor "
                "{'type': 'audio', 'audio': clip}."
            )
        if role == "assistant":
            raise ValueError(f"{where} holds a clip, but the assistant answers in text alone.")
        found = [part[key] for key in CLIP_KEYS if part.get(key) is not None]
        self.clips.append(found[0] if found else None)
        return {"type": "audio", "audio_url": ""}


def read_conversations(messages: Any) -> tuple[list[Conversation], bool]:
    """One conversation or a list of them, and whether it was one.

    Raises:
        ValueError, TypeError: for what is neither.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(
            "messages must be a list of messages {'role': ..., 'content': ...}, or a list of such "
            f"lists, not {type(messages).__name__}."
        )
    if not messages:
        raise ValueError("messages is empty: give at least one.")
    if isinstance(messages[0], Mapping):
        return [Conversation.of(messages)], True
    return [Conversation.of(one, number) for number, one in enumerate(messages)], False


def render(processor: Any, conversations: Sequence[Conversation], parts: PromptParts) -> list[str]:
    """The texts that the processor's chat template makes, up to where the answer begins.

    Raises:
        ValueError: for special tokens in what is said, no template, or one that refuses this.
    """
    check_plain(
        processor,
        [
            (f"{message['role']}'s text", text)
            for conversation in conversations
            for message in conversation.messages
            for text in _said(message)
        ],
        parts,
    )
    if processor.chat_template is None:
        raise ValueError("The processor has no chat template: write the whole text as raw=.")
    try:
        return processor.apply_chat_template(
            [conversation.messages for conversation in conversations],
            add_generation_prompt=True,
            tokenize=False,
        )
    except TemplateError as error:
        raise ValueError(f"The chat template refuses this: {error}.") from error


def begin_answers(
    processor: Any,
    texts: Sequence[str],
    prefix: str | Sequence[str],
    forced: Sequence[str],
    parts: PromptParts,
) -> list[str]:
    """The texts with the beginnings of their answers behind them.

    `forced` are those of conversations that the assistant ends.

    Raises:
        ValueError: for prefixes of another number, with special tokens, or beside a forced one.
    """
    prefixes = [prefix] * len(texts) if isinstance(prefix, str) else list(prefix)
    if len(prefixes) != len(texts):
        raise ValueError(
            f"{len(prefixes)} prefixes for {len(texts)} prompts: give one string, or one a prompt."
        )
    if twice := [i for i, (a, b) in enumerate(zip(prefixes, forced, strict=True)) if a and b]:
        raise ValueError(
            f"Conversations {twice} end with the assistant's message, which the answer continues, "
            "and have a prefix=, too: give one of them."
        )
    begun = [a or b for a, b in zip(prefixes, forced, strict=True)]
    check_plain(processor, [("prefix", beginning) for beginning in begun], parts)
    return [text + beginning for text, beginning in zip(texts, begun, strict=True)]


def check_plain(processor: Any, texts: Sequence[tuple[str, str]], parts: PromptParts) -> None:
    """ValueError for a named text in which special tokens are written, which it must not become."""
    added = processor.tokenizer.added_tokens_decoder.values()
    special = [str(token) for token in added if token.special]
    _, placeholder, _ = parts.clip(processor)
    for name, text in texts:
        if placeholder in text:
            raise ValueError(
                f"The {name} {text!r} holds {placeholder}, which stands for a clip. Take "
                f"it out (the chat template adds one a clip), or write the whole text as raw=."
            )
        if written := [token for token in special if token in text]:
            raise ValueError(
                f"The {name} {text!r} holds the special tokens {written}, which plain text must not "
                f"become. Take them out, or write the whole text, template and all, as raw=."
            )


def _said(message: Mapping[str, Any]) -> list[str]:
    """The texts of a message."""
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]
