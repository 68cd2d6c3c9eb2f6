"""Labelled data: questions about recordings with choices and the right answer, read in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.analysis.answers import choice_log_probs, choice_probs
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.inputs import AudioPrompt
from lens_audio.progress_bar import ProgressBar
from lens_audio.testbed.items import Item


@dataclass(frozen=True, eq=False)
class LabelledItem:
    """One question about a recording, its possible answers and the right one.

    `condition` groups items for reports, such as "conflict" or an MMAU task.
    """

    id: str
    question: str  # the whole user text, options included
    choices: tuple[str, ...]
    answer: str  # one of the choices
    audio: Any = None  # what `model.prompt` takes: a path, (samples, rate), …; None is text alone
    condition: str = "all"

    def __post_init__(self) -> None:
        if len(set(self.choices)) < 2:
            raise ValueError(f"item {self.id}: give at least two different choices")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"item {self.id}: a choice is given twice")
        if self.answer not in self.choices:
            raise ValueError(f"item {self.id}: the answer {self.answer!r} is none of its choices")


CAPTION_CONDITIONS = {"none": "captionless", "true": "truthful", "false": "conflict"}


def labelled(items: Iterable[Any]) -> list[LabelledItem]:
    """Items of the testbed as labelled items; labelled items stay as they are.

    The condition says what the caption does: "captionless", "truthful", or "conflict".

    Raises:
        TypeError: for anything else.
    """
    return [item if isinstance(item, LabelledItem) else _of_testbed(item) for item in items]


def _of_testbed(item: Any) -> LabelledItem:
    if not isinstance(item, Item):
        raise TypeError(f"expected a LabelledItem or a testbed Item, not {type(item).__name__}")
    audio = (np.asarray(item.waveform), item.sampling_rate)
    condition = CAPTION_CONDITIONS[item.caption]
    return LabelledItem(item.id, item.question, tuple(item.choices), item.answer, audio, condition)


def check_items(items: Sequence[LabelledItem], least: int = 1) -> None:
    """Refuse too few items, and ids that occur twice: splits go by id.

    Raises:
        ValueError: saying which.
    """
    if len(items) < least:
        raise ValueError(f"{len(items)} items are too few; give at least {least}")
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})[:5]
        raise ValueError(f"item ids given more than once: {twice}")


def split_items(
    items: Sequence[LabelledItem], share: float, seed: int
) -> tuple[list[LabelledItem], list[LabelledItem]]:
    """A seeded split, calibration first: that share of each condition, in the items' order.

    Raises:
        ValueError: for a share outside (0, 1), or a condition with a single item.
    """
    if not 0 < share < 1:
        raise ValueError(f"the split's share must lie between 0 and 1, not {share}")
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for condition in dict.fromkeys(item.condition for item in items):
        ids = [item.id for item in items if item.condition == condition]
        if len(ids) < 2:
            raise ValueError(f"condition {condition!r} has one item, which cannot be split")
        n = min(max(1, round(share * len(ids))), len(ids) - 1)
        chosen.update(np.asarray(ids)[rng.permutation(len(ids))[:n]].tolist())
    first = [item for item in items if item.id in chosen]
    return first, [item for item in items if item.id not in chosen]


def batches(
    model: HookedAudioTransformer,
    items: Sequence[LabelledItem],
    batch_size: int = 16,
    verbose: bool = True,
    what: str = "items",
) -> Iterator[tuple[Sequence[LabelledItem], AudioPrompt]]:
    """The items as left-padded prompts, `batch_size` at a time; a progress bar after one second.

    Raises:
        ValueError: for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    with ProgressBar(
        total=len(items), desc=what, unit="item", disable=not verbose, delay=1, leave=False
    ) as bar:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            clips = [item.audio for item in batch]
            yield batch, model.prompt([item.question for item in batch], audio=clips)
            bar.update(len(batch))


def first_tokens(
    model: HookedAudioTransformer, items: Sequence[LabelledItem]
) -> Int[Tensor, "item choice"]:
    """The first token of each choice; rows with fewer choices than the most end in -1.

    Raises:
        ValueError: where two choices of an item begin with the same token.
    """
    rows = []
    for item in items:
        row = [model.tokenizer.encode(c, add_special_tokens=False)[0] for c in item.choices]
        if len(set(row)) < len(row):
            raise ValueError(
                f"item {item.id}: two of its choices begin with the same token, so the first token "
                "does not tell them apart"
            )
        rows.append(row)
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], device=model.device)


def choice_logits(
    logits: Float[Tensor, "item d_vocab"], tokens: Int[Tensor, "item choice"]
) -> Float[Tensor, "item choice"]:
    """The logit of each choice's first token (of `first_tokens`); -inf where there is no choice."""
    return logits.gather(1, tokens.clamp(min=0)).masked_fill(tokens < 0, -torch.inf)


def is_single_token(model: HookedAudioTransformer, items: Sequence[LabelledItem]) -> bool:
    """Whether every choice is one token, so that its first token is all of it."""
    texts = {choice for item in items for choice in item.choices}
    return all(len(model.tokenizer.encode(t, add_special_tokens=False)) == 1 for t in texts)


@torch.no_grad()
def chosen_answers(
    model: HookedAudioTransformer, items: Sequence[LabelledItem], prompt: AudioPrompt
) -> list[str]:
    """The choice of highest probability for each item; hooks on the model act.

    One forward for the batch where every choice is one token; else one prompt at a time, whose
    choices are scored whole by `choice_log_probs`.
    """
    if is_single_token(model, items):
        logits: Float[Tensor, "batch d_vocab"] = model(prompt, logits_to_keep=1)[:, -1]
        best = choice_logits(logits, first_tokens(model, items)).argmax(-1).tolist()
        return [item.choices[i] for item, i in zip(items, best, strict=True)]
    answers = []
    for item in items:
        alone = model.prompt(item.question, audio=item.audio)
        probs = choice_probs(choice_log_probs(model, alone, item.choices))[0]
        answers.append(item.choices[int(probs.argmax())])
    return answers
