"""RUListening (Zang et al., arXiv 2504.00369): music questions that cannot be guessed from text.

Each question is asked once for every distractor, which is then left out; each time the other
choices stand in an order drawn from a seed (the published script's is new in each run). Its
file and rule are those of `RUL-MuchoMusic.json` and `ExampleAudioEval` in the repository
yongyizang/AreYouReallyListening; of the file, only the beginning was at hand. Our prompt is worded
otherwise, and does not ask for steps of thinking; the published one can be given as a file. The
recordings are named `ID.mp3`.

The authors recommend to report the same over Gaussian noise in place of the music.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from lens_audio import evals
from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks.rows import (
    audio_path,
    choices_of,
    items_of,
    located,
    read_keyed_rows,
    texts,
)

if TYPE_CHECKING:
    import lens_audio.evals.metrics  # on first use, so that questions are read without torch

ASKED_FOR = re.compile(r"\[\[([A-E])\]\]")
SAID = re.compile(r"(?:answer is|chose|choose|select|guess is|I guess) ([A-E])\b", re.IGNORECASE)


def chosen(response: str, choices: Sequence[str]) -> str:
    """The choice that a response names, by the published script; "" for none.

    In this order: the last letter in double brackets; the last one after words such as "answer is";
    the first of A to E that is an "option A" or stands in parentheses; the whole response, where it
    is a choice (ours: an answer by log-probability is one); the first choice that it contains, in
    any case.
    """
    letters = ascii_uppercase[:5]
    named = ASKED_FOR.findall(response) or SAID.findall(response)
    if not named:
        forms = ("option {}", "Option {}", "({})")
        named = [x for x in letters if any(form.format(x) in response for form in forms)][:1]
    if named:
        place = letters.index(named[-1].upper())
        return choices[place] if place < len(choices) else ""
    if response in choices:
        return response
    return next((c for c in choices if c and c.lower() in response.lower()), "")


@dataclass(frozen=True, eq=False)
class RUListening:
    """RUListening's questions, each asked without one of its distractors; see `read`."""

    items: Sequence[AudioQAItem]
    version: str
    name: str = "RUListening"
    groups: tuple[str, ...] = ("asking",)
    prompt: str = "lettered"
    rule: str = "RUListening's own: the letter in [[ ]], one distractor left out at a time"

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """Whether the choice that is named is the right one."""
        return chosen(prediction, choices) == answer

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """An asking with its outcome, under the keys of the published script's `passes`."""
        said = chosen(prediction, item.choices)
        letters = dict(zip(ascii_uppercase, item.choices, strict=False))
        return {
            "question_id": item.record["id"],
            "excluded_distractor": item.record["distractors"][int(item.facts["asking"]) - 1],
            "model_output": prediction,
            "extracted_answer_letter": next((x for x in letters if letters[x] == said), ""),
            "extracted_answer_text": said,
            "is_correct": said == item.answer,
            "letter_mapping": letters,
        }

    def unit(self, item: AudioQAItem) -> str:
        """The question, with all its askings."""
        return item.record["id"]

    def metrics(
        self, rows: Sequence["lens_audio.evals.metrics.Row"]
    ) -> dict[str, "lens_audio.evals.metrics.Ratio"]:
        """The share of askings that are right, and of questions by vote.

        By vote a question is right where its askings name the right choice most often; of choices
        that are named equally often the one named first counts.
        """
        askings: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            askings.setdefault(self.unit(row.item), []).append(number)
        right, counted = [False] * len(rows), [False] * len(rows)
        for numbers in askings.values():
            said = [chosen(rows[n].prediction, rows[n].item.choices) for n in numbers]
            votes = Counter(choice for choice in said if choice).most_common(1)
            counted[numbers[0]] = True
            right[numbers[0]] = bool(votes) and votes[0][0] == rows[numbers[0]].item.answer
        return {
            "accuracy": evals.metrics.share([row.correct for row in rows]),
            "accuracy by vote": evals.metrics.share(right, counted),
        }

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        audio: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> "RUListening":
        """`RUL-MuchoMusic.json`: a JSON object of questions by id; or a list, or JSON lines, with "id".

        Args:
            audio: the folder of `ID.mp3`; by default the folder of the file.
            seed: of the order of the choices.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for rows that are no questions, named.
        """
        path, folder = located(path, audio)
        rows = read_keyed_rows(path).items()
        items = items_of(rows, lambda row: _askings(row, folder, seed), path.name)
        return cls(items, f"leave one out, order of choices by seed {seed}")


def _askings(row: Any, folder: Path, seed: int) -> list[AudioQAItem]:
    name, question, answer = texts(row, ("id", "question", "correct_answer"))
    distractors = choices_of(row, "distractors")
    if not 2 <= len(distractors) <= 4:
        raise ValueError(f"its distractors are {len(distractors)}, not two to four")
    recording = audio_path(f"{name}.mp3", folder, "id")
    items = []
    for number in range(len(distractors)):
        choices = [answer, *distractors[:number], *distractors[number + 1 :]]
        random.Random(f"{seed}:{name}:{number}").shuffle(choices)
        facts = {"asking": str(number + 1)}  # the first is without the first distractor
        items.append(
            AudioQAItem(f"{name}-{number}", question, tuple(choices), answer, recording, facts, row)
        )
    return items
