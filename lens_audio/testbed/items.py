"""Multiple-choice questions of MMAU's shape about synthesised clips, with and without captions.

The same `seed` and index give the same clip, question and choices under every caption
condition, so conditions can be compared item by item.

Seeds: every generator is `default_rng([stream, seed, index, ...])`, where `stream` is 0 for
training and 1 for held-out items. NumPy's seed sequences differ whenever any of these words
differ, so no held-out item, whatever its seed, was ever drawn in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lens_audio.data.items import AudioQAItem
from lens_audio.testbed.sounds import (
    CLASSES,
    SAMPLING_RATE,
    Clip,
    Event,
    Rng,
    Samples,
    make_clip,
    silence,
)

Caption = Literal["none", "true", "false"]
Kind = Literal["choice", "yes_no", "mixed"]
Audio = Literal["event", "background", "silence"]

TRAINING_STREAM, HELD_OUT_STREAM = 0, 1
YES_NO_SHARE = 0.2  # of "mixed" items

MASS_NOUNS = ("glass", "rain")  # "the sound of rain", not "of a rain"
QUESTIONS = (
    "What is the sound in this recording?",
    "Which sound do you hear?",
    "What can be heard in the audio?",
    "Which of these sounds is in the clip?",
    "What do you hear?",
    "Identify the sound in the recording.",
)
YES_NO_QUESTIONS = (
    "Is there {sound} in this recording?",
    "Can you hear {sound}?",
    "Does the clip contain {sound}?",
    "Is {sound} heard in the audio?",
)
PLAIN_CAPTIONS = (
    "Someone says they heard {sound}.",
    "A note says it could be {sound}.",
    "I think this is {sound}.",
    "The file name mentions {sound}.",
)
FIRM_CAPTIONS = (
    "This is certainly the sound of {sound}.",
    "Without any doubt this is {sound}.",
    "It is definitely {sound}.",
    "Everyone agrees that it is {sound}.",
)


CAPTION_CONDITIONS = {"none": "captionless", "true": "truthful", "false": "conflict"}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CaptionedItem(AudioQAItem):
    """One question about one synthesised recording, with or without a caption.

    `question` is the whole user text: caption if any, question, options. `answer` is what the audio
    says, whatever the caption says. `condition` says what the caption does: "captionless",
    "truthful", or "conflict".
    """

    choices: list[str]
    caption: Caption
    captioned: str | None  # the choice the caption speaks for
    firm: bool  # is the caption worded firmly

    @property
    def waveform(self) -> Samples:
        """[samples]"""
        return self.audio[0]

    @property
    def sampling_rate(self) -> int:
        """Hz"""
        return self.audio[1]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Item(CaptionedItem):
    """A question about one of sixteen sounds."""

    onset: float  # seconds
    offset: float  # seconds
    category: str  # the sound class; "background" or "silence" when nothing happens

    def __post_init__(self) -> None:
        super().__post_init__()
        facts = {"condition": CAPTION_CONDITIONS[self.caption], "category": self.category}
        object.__setattr__(self, "facts", facts)

    @property
    def kind(self) -> Kind:
        """ "yes_no" or "choice"."""
        return "yes_no" if list(self.choices) == ["yes", "no"] else "choice"


@dataclass(frozen=True)
class Question:
    """The text side of an item, before it is tied to a recording."""

    text: str
    choices: list[str]
    answer: str  # what the sound says
    event: Event | None = None  # of a scene, the one that decides; None where nothing is heard
    caption_text: str = ""  # of a scene, the part of `text` that is the caption
    captioned: str | None = None  # the choice that the caption speaks for
    firm: bool = False  # is the caption worded firmly


def with_article(category: str) -> str:
    """'bell' -> 'a bell', 'alarm' -> 'an alarm', 'rain' -> 'rain'."""
    if category in MASS_NOUNS:
        return category
    return f"{'an' if category[0] in 'aeiou' else 'a'} {category}"


def options(choices: Sequence[str]) -> str:
    """The closing sentence that lists the choices, in R1-AQA's wording."""
    return f"Please choose the answer from the following options: {list(choices)}."


def caption_sentence(category: str, firm: bool, rng: Rng) -> str:
    """A sentence that says the sound is this, firmly or not, in a wording that is drawn."""
    wordings = FIRM_CAPTIONS if firm else PLAIN_CAPTIONS
    return str(rng.choice(wordings)).format(sound=with_article(category))


def make_question(
    category: str,
    kind: Literal["choice", "yes_no", "open"],
    caption: Caption,
    rng: Rng,
    caption_rng: Rng,
) -> Question:
    """Draw a question about a sound of this class; `kind="open"` lists no options.

    Everything about the caption comes from `caption_rng`, so that the rest of the question is
    the same under every caption condition.
    """
    others = [c for c in CLASSES if c != category]
    if kind == "yes_no":
        present = bool(rng.random() < 0.5)
        asked = category if present else str(rng.choice(others))
        choices, answer = ["yes", "no"], "yes" if present else "no"
        body = str(rng.choice(YES_NO_QUESTIONS)).format(sound=with_article(asked))
        # The false caption speaks for the wrong answer: it names another class where the asked
        # one is present, and the asked one where it is absent.
        wrong = [c for c in others if c != asked] if present else [asked]
    else:
        wrong = [str(c) for c in rng.choice(others, 3, replace=False)]
        choices = [str(c) for c in rng.permutation([category, *wrong])]
        answer = category
        body = str(rng.choice(QUESTIONS))
    parts = [body] if kind == "open" else [body, options(choices)]
    if caption == "none":
        return Question(" ".join(parts), choices, answer)
    named = category if caption == "true" else str(caption_rng.choice(wrong))
    firm = bool(caption_rng.random() < 0.5)
    captioned = ("yes" if named == asked else "no") if kind == "yes_no" else named
    parts.insert(0, caption_sentence(named, firm, caption_rng))
    return Question(" ".join(parts), choices, answer, captioned=captioned, firm=firm)


def make_item(
    index: int, seed: int, caption: Caption, kind: Kind, audio: Audio, stream: int
) -> Item:
    """One item: a pure function of its arguments."""
    rng = np.random.default_rng([stream, seed, index, 0])
    caption_rng = np.random.default_rng([stream, seed, index, 1])
    category = str(rng.choice(CLASSES))
    clip = make_clip(category, rng)
    if audio != "event":
        clip = _without_event(clip, audio, rng)
    yes_no = kind == "yes_no" or (kind == "mixed" and rng.random() < YES_NO_SHARE)
    question = make_question(category, "yes_no" if yes_no else "choice", caption, rng, caption_rng)
    return Item(
        id=f"{'train' if stream == TRAINING_STREAM else 'held-out'}-{seed}-{index}-{caption}",
        audio=(clip.waveform, SAMPLING_RATE),
        question=question.text,
        choices=question.choices,
        answer=question.answer,
        caption=caption,
        captioned=question.captioned,
        firm=question.firm,
        onset=clip.onset,
        offset=clip.offset,
        category=category if audio == "event" else audio,
    )


def _without_event(clip: Clip, audio: Audio, rng: Rng) -> Clip:
    seconds = len(clip.waveform) / SAMPLING_RATE
    return silence(seconds) if audio == "silence" else make_clip(None, rng, seconds)


def make_items(
    n: int,
    seed: int,
    caption: Caption = "none",
    kind: Kind = "choice",
    audio: Audio = "event",
) -> list[Item]:
    """Draw n held-out items.

    `caption`: "none", "true" (names the sound heard) or "false" (a conflict item: names one of
    the wrong choices while the audio is clear). `kind`: "choice" (four choices), "yes_no", or
    "mixed" (one in five yes/no). `audio`: "event", or "background" and "silence", where the
    recording holds nothing to hear and `answer` is what the caption "true" would name.
    """
    possible = {"caption": get_args(Caption), "kind": get_args(Kind), "audio": get_args(Audio)}
    check_drawn(n, seed, possible, caption=caption, kind=kind, audio=audio)
    return [make_item(i, seed, caption, kind, audio, HELD_OUT_STREAM) for i in range(n)]


def check_drawn(n: int, seed: int, possible: Mapping[str, tuple[str, ...]], **chosen: str) -> None:
    """Refuse negative numbers, and choices that are not possible.

    Raises:
        ValueError: naming what was given and what is possible.
    """
    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must be 0 or more, got n={n}, seed={seed}")
    for name, value in chosen.items():
        if value not in possible[name]:
            raise ValueError(f"{name}={value!r} is not possible; choose one of {possible[name]}")
