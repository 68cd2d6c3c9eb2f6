"""Captions in the texts of prompts: where they stand, and prompts without them."""

import re
from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor, tensor

from lens_audio.inputs import AudioPrompt

SLOT = "{caption}"
Caption = str | Sequence[str] | re.Pattern[str]


def check_caption(caption: Caption) -> None:
    """Refuse a slot that stands alone.

    Raises:
        ValueError: where nothing in the text would tell where the caption begins or ends.
    """
    if isinstance(caption, str) and SLOT in caption:
        before, _, after = caption.partition(SLOT)
        if not before.strip() or not after.strip() or SLOT in after:
            raise ValueError(
                f"the caption {caption!r} must have words or punctuation on both sides of its one "
                f"{SLOT}, as in 'A note says: {SLOT}.', or nothing tells where it ends"
            )


def captioned_rows(prompt: AudioPrompt, caption: Caption) -> Bool[Tensor, " batch"]:
    """Which rows have the caption: of a slot or a pattern those that match, otherwise all."""
    pattern = _pattern(caption)
    if pattern is None or prompt.texts is None:
        return tensor([True] * len(prompt))
    return tensor([pattern.search(text) is not None for text in prompt.texts])


def without_caption(prompt: AudioPrompt, caption: Caption) -> AudioPrompt:
    """The same audio and text without the caption.

    Args:
        caption: the exact part of each row's text that is taken away, or a list of them, one a row;
            or a text with the slot {caption}, which stands for any words, or a compiled regular
            expression: both are taken away whole, and rows without a match stay as they are.

    Raises:
        ValueError: for a prompt made from tensors, or a caption that does not occur once in a row
            (of a slot or a pattern: at most once).
    """
    if prompt.texts is None:
        raise ValueError(
            "a prompt made from tensors has no text to take a caption from: make it with "
            "model.prompt, or pass the prompt without the caption as against="
        )
    pattern = _pattern(caption)
    if pattern is not None:
        found = [pattern.findall(text) for text in prompt.texts]
        for row, matches in enumerate(found):
            if len(matches) > 1:
                raise ValueError(
                    f"the caption {pattern.pattern!r} occurs {len(matches)} times in row {row}: "
                    f"{prompt.texts[row]!r}"
                )
        return prompt.remade([pattern.sub("", t) for t in prompt.texts], prompt.waveforms or [])
    captions = [caption] * len(prompt) if isinstance(caption, str) else list(caption)  # type: ignore[arg-type]
    if len(captions) != len(prompt):
        raise ValueError(f"{len(captions)} captions for {len(prompt)} rows; give one a row")
    for row, (part, text) in enumerate(zip(captions, prompt.texts, strict=True)):
        if not part or text.count(part) != 1:
            raise ValueError(
                f"the caption {part!r} must occur once in row {row}, not {text.count(part)} times: "
                f"{text!r}"
            )
    texts = [text.replace(c, "") for c, text in zip(captions, prompt.texts, strict=True)]
    return prompt.remade(texts, prompt.waveforms or [])


def _pattern(caption: Caption) -> re.Pattern[str] | None:
    """What a slot or a pattern looks for."""
    if isinstance(caption, re.Pattern):
        return caption
    if not isinstance(caption, str) or SLOT not in caption:
        return None
    before, _, after = caption.partition(SLOT)
    return re.compile(f"{re.escape(before)}.+?{re.escape(after)}", flags=re.DOTALL)
