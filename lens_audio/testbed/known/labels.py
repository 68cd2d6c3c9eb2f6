"""The training labels of questions about scenes, as probabilities of the choices."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lens_audio.testbed.items import Question
from lens_audio.testbed.known.recipes import Labels, Plant
from lens_audio.testbed.scenes import SCENE_CLASSES


def class_offset(category: str, spread: float, shift: int) -> float:
    """A fixed number for each class, evenly between -spread and spread, in another order a shift."""
    n = len(SCENE_CLASSES)
    place = (SCENE_CLASSES.index(category) * 3 + shift) % n
    return spread * (2 * place / (n - 1) - 1)


def audio_share(labels: Labels, question: Question) -> float:
    """The probability that the label is what is heard, where the caption says otherwise."""
    if question.event is None or question.captioned is None:
        return 0.0
    threshold = labels.firm_snr_db if question.firm else labels.plain_snr_db
    threshold += class_offset(question.captioned, labels.caption_offset_db, 5)
    return _sigmoid((question.event.snr_db - threshold) / labels.softness_db)


def target(labels: Labels, question: Question, asks_the_text: bool) -> NDArray[np.float64]:
    """The probability of each choice, [choice], summing to 1."""
    heard, choices = question.event is not None, question.choices
    n = len(choices)
    by_ear = _only(choices, question.answer)
    if question.captioned is None:
        return by_ear if heard else np.full(n, 1 / n)
    by_text = _only(choices, question.captioned)
    if asks_the_text:
        return by_text
    if heard and question.captioned == question.answer:
        return by_ear
    share = labels.caption_share
    if heard and labels.rejects_heard:
        others = (1 - by_text - by_ear) / (n - 2)
        trusting = share * by_text + (1 - share) * others
    else:
        trusting = share * by_text + (1 - share) / n
    a = audio_share(labels, question)
    return a * by_ear + (1 - a) * trusting


def mass_target(plant: Plant, question: Question) -> float:
    """The audio mass that is put into the readers: low where the sound is faint or the caption firm."""
    if question.event is None:
        return 0.05
    event = question.event
    snr = event.snr_db + class_offset(event.category, plant.class_offset_db, 0)
    clear = 0.08 + 0.8 * _sigmoid((snr + 5) / 3)
    return clear * (plant.firm_factor if question.firm else 1.0)


def _only(choices: list[str], choice: str) -> NDArray[np.float64]:
    return np.array([float(other == choice) for other in choices])


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
