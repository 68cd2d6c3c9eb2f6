"""MMAU (Sakshi et al., arXiv 2410.19168): its official score."""

import re
from collections.abc import Iterable


def matches(prediction: str, answer: str, choices: Iterable[str]) -> bool:
    """Whether MMAU's official scorer counts a prediction as right: a match of sets of words.

    Every word of the answer is in the prediction, and no word that only a wrong choice has. Words
    are runs of letters, digits and underscores, in lower case. Source: the rule of `evaluation.py`
    in the benchmark's repository.
    """
    said, right = _words(prediction), _words(answer)
    only_wrong = {word for choice in choices for word in _words(choice)} - right
    return bool(said) and right <= said and not said & only_wrong


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))
