"""Clips of two seconds with one or two events, and questions about them whose difficulty is known.

They are what the checkpoints with a known answer (`testbed.truth`) were trained on and are judged
by. As with `testbed.items`, an index and a seed give the same clip, question and choices under
every caption, and held-out items are never training's (`testbed.items` says how).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import numpy as np

from lens_audio.testbed.items import (
    CAPTION_CONDITIONS,
    HELD_OUT_STREAM,
    Caption,
    CaptionedItem,
    Question,
    caption_sentence,
    check_drawn,
    with_article,
)
from lens_audio.testbed.sounds import (
    BACKGROUNDS,
    SAMPLING_RATE,
    Event,
    Rng,
    Samples,
    make_background,
    make_event,
)

SceneKind = Literal["what", "which", "yes_no", "first", "last", "lettered"]
Firm = Literal["plain", "firm"]

SCENE_CLASSES = ("bark", "bell", "bird", "engine", "horn", "rain", "siren", "whistle")
SCENE_SECONDS = 2.0
MIN_SNR_DB, MAX_SNR_DB = -18.0, 10.0
EVENT_SECONDS = (0.35, 0.7)
OVERLAP_SHARE = 0.2  # of the scenes of two events
N_CHOICES = 4
LETTERS = ("A", "B", "C", "D")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "what": ("What do you hear?", "Which sound do you hear?"),
    "first": ("Which sound is first?",),
    "last": ("Which sound is last?",),
    "yes_no": ("Is there {sound} in the clip?", "Can you hear {sound}?"),
}
QUESTIONS["which"] = QUESTIONS["lettered"] = QUESTIONS["what"]
TWO_EVENTS = ("which", "first", "last")


@dataclass(frozen=True, eq=False)
class Scene:
    """A recording and its events, in the order of their onsets."""

    waveform: Samples  # [samples]
    events: tuple[Event, ...]

    @property
    def overlap(self) -> float:
        """Seconds in which both events sound."""
        if len(self.events) < 2:
            return 0.0
        one, other = self.events
        return max(0.0, min(one.offset, other.offset) - other.onset)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SceneItem(CaptionedItem):
    """A question about a scene; `facts` hold its kind, condition and the caption's wording."""

    kind: SceneKind
    events: tuple[Event, ...]
    overlap: float  # seconds in which two events sound together
    snr_db: float  # of the event that decides
    facts: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        facts = {"condition": CAPTION_CONDITIONS[self.caption], "kind": self.kind}
        if self.caption != "none":
            facts["wording"] = "firm" if self.firm else "plain"
        object.__setattr__(self, "facts", facts)


def make_scene(
    rng: Rng,
    n_events: int,
    snr_db: tuple[float, float] = (MIN_SNR_DB, MAX_SNR_DB),
    categories: Sequence[str] = (),
) -> Scene:
    """Draw a scene of 0, 1 or 2 events of different classes, each with an SNR of its own.

    Two events lie one after the other, or, in one scene of five, wherever they fall.

    Args:
        categories: of the events, in order; drawn where not given.
    """
    background = make_background(str(rng.choice(BACKGROUNDS)), rng, SCENE_SECONDS)
    drawn = [str(c) for c in rng.choice(SCENE_CLASSES, n_events, replace=False)]
    begin, end = 0.05, SCENE_SECONDS - 0.05
    spans = [(begin, end)] * n_events
    if n_events == 2 and rng.random() >= OVERLAP_SHARE:
        cut = float(rng.uniform(0.8, 1.2))
        spans = [(begin, cut - 0.02), (cut + 0.02, end)]
    waveform, events = background.astype(np.float64), []
    for category, (low, high) in zip(categories or drawn, spans, strict=True):
        longest = min(EVENT_SECONDS[1], high - low)
        seconds = round(float(rng.uniform(EVENT_SECONDS[0], longest)), 2)
        start = int(float(rng.uniform(low, high - seconds)) * SAMPLING_RATE)
        sound = make_event(category, rng, seconds)
        span = slice(start, start + len(sound))
        snr = float(rng.uniform(*snr_db))
        waveform[span] += sound * np.sqrt(np.mean(background[span] ** 2) * 10 ** (snr / 10))
        onset, offset = start / SAMPLING_RATE, (start + len(sound)) / SAMPLING_RATE
        events.append(Event(category, onset, offset, snr))
    waveform *= float(rng.uniform(0.2, 0.9)) / np.abs(waveform).max()
    in_order = tuple(sorted(events, key=lambda event: event.onset))
    return Scene(waveform.astype(np.float32), in_order)


def ask(
    events: Sequence[Event], kind: SceneKind, caption: Caption, rng: Rng, caption_rng: Rng
) -> Question:
    """Draw a question about these events; of none, a question whose answer nothing decides.

    "what" and "lettered" ask for the one sound, "which" lists one of two, "first" and "last" list
    both. A false caption speaks for a wrong choice; all about it comes from `caption_rng`.
    """
    heard = [event.category for event in events]
    others = [c for c in SCENE_CLASSES if c not in heard]
    event = _deciding(events, kind, rng)
    if kind == "yes_no":
        return _ask_yes_no(event, heard, others, caption, rng, caption_rng)
    right = event.category if event else str(rng.choice(SCENE_CLASSES))
    listed = [c for c in heard if c != right] if kind in ("first", "last") else []
    listed += [str(c) for c in rng.permutation([c for c in others if c != right])]
    wrong = listed[: N_CHOICES - 1]
    choices = [str(c) for c in rng.permutation([right, *wrong])]
    body = str(rng.choice(QUESTIONS[kind]))
    named = right if caption == "true" else str(caption_rng.choice(wrong))
    if kind != "lettered":
        question = Question(f"{body} {choices}.", choices, right, event)
        return _captioned(question, named, named, caption, caption_rng)
    shown = [f"{letter} {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    letter_of = dict(zip(choices, LETTERS, strict=True))
    question = Question(f"{body} {shown}.", list(LETTERS), letter_of[right], event)
    return _captioned(question, named, letter_of[named], caption, caption_rng)


def _deciding(events: Sequence[Event], kind: SceneKind, rng: Rng) -> Event | None:
    """The event that the answer is about."""
    if not events:
        return None
    if kind in ("which", "yes_no"):
        return events[int(rng.integers(len(events)))]
    return events[-1] if kind == "last" else events[0]


def _ask_yes_no(
    event: Event | None,
    heard: list[str],
    others: list[str],
    caption: Caption,
    rng: Rng,
    caption_rng: Rng,
) -> Question:
    present = bool(rng.random() < 0.5) and event is not None
    asked = event.category if present and event else str(rng.choice(others))
    body = str(rng.choice(QUESTIONS["yes_no"])).format(sound=with_article(asked))
    if caption == "true":
        named = asked if present or not heard else heard[0]
    else:
        named = str(caption_rng.choice([c for c in others if c != asked])) if present else asked
    choices = ["yes", "no"]
    question = Question(f"{body} {choices}.", choices, "yes" if present else "no", event)
    return _captioned(question, named, "yes" if named == asked else "no", caption, caption_rng)


def _captioned(
    question: Question, named: str, choice: str, caption: Caption, caption_rng: Rng
) -> Question:
    """The question behind a caption that names a sound, and so speaks for a choice."""
    if caption == "none":
        return question
    firm = bool(caption_rng.random() < 0.5)
    said = caption_sentence(named, firm, caption_rng)
    text = f"{said} {question.text}"
    return replace(question, text=text, caption_text=said, captioned=choice, firm=firm)


def make_scene_items(
    n: int,
    seed: int,
    caption: Caption = "none",
    kind: SceneKind | Literal["mixed"] = "mixed",
    snr_db: tuple[float, float] = (MIN_SNR_DB, MAX_SNR_DB),
) -> list[SceneItem]:
    """Draw n held-out items about scenes.

    Args:
        caption: "none", "true", or "false" (a conflict item: the caption speaks for a wrong choice).
        kind: "what" (one sound), "which" (two sounds, one of them listed), "yes_no", "first",
            "last", "lettered" ("what", answered by a letter), or "mixed": "what" and "which".
        snr_db: the range that each event's SNR is drawn from.

    Raises:
        ValueError: for negative numbers, another caption or kind, or an empty range.
    """
    possible = {"caption": get_args(Caption), "kind": (*get_args(SceneKind), "mixed")}
    check_drawn(n, seed, possible, caption=caption, kind=kind)
    if not snr_db[0] <= snr_db[1]:
        raise ValueError(f"snr_db must be (lowest, highest), not {snr_db}")
    return [make_scene_item(i, seed, caption, kind, snr_db) for i in range(n)]


class ScenePair(NamedTuple):
    """Two recordings and one question, which they answer differently."""

    clean: SceneItem
    corrupted: SceneItem


def make_scene_pairs(
    n: int,
    seed: int,
    caption: Caption = "none",
    snr_db: tuple[float, float] = (MIN_SNR_DB, MAX_SNR_DB),
) -> list[ScenePair]:
    """Draw n pairs of held-out "what" items, to patch between: all but the sound is the same.

    The corrupted recording holds another of the listed sounds, not the one a caption names.

    Raises:
        ValueError: as `make_scene_items`.
    """
    pairs = []
    for index, clean in enumerate(make_scene_items(n, seed, caption, "what", snr_db)):
        rng = np.random.default_rng([HELD_OUT_STREAM, seed, index, 3])
        left = [c for c in clean.choices if c not in (clean.answer, clean.captioned)]
        other = str(rng.choice(left))
        scene = make_scene(rng, 1, snr_db, [other])
        corrupted = replace(
            clean,
            id=f"{clean.id}-corrupted",
            audio=(scene.waveform, SAMPLING_RATE),
            answer=other,
            events=scene.events,
            overlap=0.0,
            snr_db=scene.events[0].snr_db,
        )
        pairs.append(ScenePair(clean, corrupted))
    return pairs


def make_scene_item(
    index: int,
    seed: int,
    caption: Caption,
    kind: SceneKind | Literal["mixed"],
    snr_db: tuple[float, float],
) -> SceneItem:
    """One held-out item: a pure function of its arguments."""
    stream = [HELD_OUT_STREAM, seed, index]
    clip_rng, text_rng, caption_rng = (np.random.default_rng([*stream, 2, k]) for k in range(3))
    if kind == "mixed":
        kind = "what" if clip_rng.random() < 0.5 else "which"
    n_events = 2 if kind in TWO_EVENTS else 1
    if kind == "yes_no":
        n_events = int(clip_rng.integers(1, 3))
    scene = make_scene(clip_rng, n_events, snr_db)
    asked = ask(scene.events, kind, caption, text_rng, caption_rng)
    assert asked.event is not None
    return SceneItem(
        id=f"scene-{seed}-{index}-{kind}-{caption}",
        audio=(scene.waveform, SAMPLING_RATE),
        question=asked.text,
        choices=asked.choices,
        answer=asked.answer,
        caption=caption,
        captioned=asked.captioned,
        firm=asked.firm,
        kind=kind,
        events=scene.events,
        overlap=scene.overlap,
        snr_db=asked.event.snr_db,
    )
