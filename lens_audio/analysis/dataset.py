"""Names of labelled data that are now of `lens_audio.data`; they stay here for one release."""

from collections.abc import Iterable, Sequence
from typing import Any

from lens_audio.data.answers import choice_logits, chosen_answers, first_tokens
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, check_items, split_items

__all__ = [
    "LabelledItem",
    "batches",
    "check_items",
    "choice_logits",
    "chosen_answers",
    "first_tokens",
    "labelled",
    "split_items",
]


def LabelledItem(
    id: str,
    question: str,
    choices: Sequence[str],
    answer: str,
    audio: Any = None,
    condition: str = "all",
) -> AudioQAItem:
    """An `AudioQAItem` of this condition, checked: now `lens_audio.data.AudioQAItem`.

    Raises:
        ValueError: for choices that are not different, or an answer that is none of them.
    """
    if len(set(choices)) < 2:
        raise ValueError(f"item {id}: give at least two different choices")
    if len(set(choices)) < len(choices):
        raise ValueError(f"item {id}: a choice is given twice")
    if answer not in choices:
        raise ValueError(f"item {id}: the answer {answer!r} is none of its choices")
    return AudioQAItem(id, question, choices, answer, audio, {"condition": condition})


def labelled(items: Iterable[Any]) -> list[AudioQAItem]:
    """The items, which those of the testbed are too.

    Raises:
        TypeError: for anything else.
    """
    found = list(items)
    check_items(found, least=0)
    return found
