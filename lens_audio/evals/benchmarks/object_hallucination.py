"""Object hallucination (Kuan et al., arXiv 2406.08402), and the later sets (arXiv 2410.16130).

Yes or no: is there such a sound? The later sets also ask for the order of sounds and for who makes
them. Keys and rules are those of the repository kuan2jiu99/audio-hallucination, whose two scripts
differ in what an answer that is neither yes nor no is: see `ObjectHallucination.metrics`. The sets
are published as parquet, which was not at hand; that `audio_index` lacks the ending ".wav" is said
by that repository. Its ratios over pairs of questions and its generative task are not here.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_audio import evals
from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks.rows import (
    audio_path,
    fact,
    items_of,
    located,
    read_table_rows,
    require,
    texts,
)

if TYPE_CHECKING:
    import lens_audio.evals.metrics  # on first use, so that questions are read without torch

YES, NO = "Yes", "No"
FIRST, LATER = "first", "later"
KEYS = {FIRST: ("audio_index", "prompt_text", "label"), LATER: ("audio", "query", "ground_truth")}
FACTS = ("sampling", "attribute", "object")
# What a response is said by, in the order in which the scripts look for it.
WORDS = (
    (YES, ("Yes", "yes")),
    (NO, ("No", "there is no", "does not contain", "doesn't contain")),
    (YES, ("contain",)),
    (NO, ("not", "unable", "can't")),
)


def said(response: str) -> str | None:
    """ "Yes" or "No", by the published scripts' words, letter for letter; None for neither."""
    found = (answer for answer, words in WORDS if any(word in response for word in words))
    return next(found, None)


@dataclass(frozen=True, eq=False)
class ObjectHallucination:
    """Questions for "Yes" or "No" with their recordings; see `read`."""

    items: Sequence[AudioQAItem]
    version: str  # "first" (Interspeech 2024) or "later" (ICASSP 2025)
    name: str = "object hallucination"
    groups: tuple[str, ...] = FACTS[:2]
    prompt: str = "verbatim"
    rule: str = "its authors' own: yes or no by keywords"

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """Whether the response says yes, or no, and is right."""
        return said(prediction) == answer

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """A line of the CSV that the scripts score, in the order of its columns."""
        audio, _, label = KEYS[self.version]
        return {
            "entry_id": item.record.get("entry_id", item.id),
            "audio_index": item.record[audio],
            "label": item.record[label],
            "response": prediction,
        }

    def unit(self, item: AudioQAItem) -> str:
        """The recording, about which there are several questions."""
        return item.record[KEYS[self.version][0]]

    def metrics(
        self, rows: Sequence["lens_audio.evals.metrics.Row"]
    ) -> dict[str, "lens_audio.evals.metrics.Ratio"]:
        """Accuracy; precision, recall and F1 of "No"; and how often "Yes" is said.

        The first script takes every answer that is not yes for a no when it counts those (precision,
        F1), though none but a no is right. The later one leaves answers that are neither out of
        precision, recall and F1, and counts them ("follows the instruction" is the rest).
        """
        answers = [said(row.prediction) for row in rows]
        is_no = [row.item.answer == NO for row in rows]
        says_no = [answer == NO for answer in answers]
        if self.version == FIRST:
            counts_as_no, asks_no = [answer != YES for answer in answers], is_no
        else:
            counts_as_no = says_no
            asks_no = [no and a is not None for no, a in zip(is_no, answers, strict=True)]
        hits = [no and said_no for no, said_no in zip(is_no, says_no, strict=True)]
        share, ratio = evals.metrics.share, evals.metrics.Ratio
        precision = share(hits, counts_as_no, "no answer was no")
        recall = share(hits, asks_no, "no question has the answer no")
        f1 = ratio(
            2 * precision.numerators,
            precision.denominators + recall.denominators,
            "no is neither answered nor right",
        )
        found = {
            "accuracy": share([row.correct for row in rows]),
            "precision of no": precision,
            "recall of no": recall,
            "F1 of no": f1,
            "yes-rate": share([answer == YES for answer in answers]),
        }
        if self.version == LATER:
            found["follows the instruction"] = share([answer is not None for answer in answers])
        return found

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], audio: str | os.PathLike[str] | None = None
    ) -> "ObjectHallucination":
        """One of the sets: .parquet (needs the extra `parquet`), .csv, .tsv, a JSON list or JSON lines.

        Args:
            audio: the folder of the recordings; by default the folder of the file.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for rows that are no questions, named.
        """
        path, folder = located(path, audio)
        rows = read_table_rows(path)
        first = next(iter(rows.values()))
        later = isinstance(first, Mapping) and KEYS[LATER][1] in first
        version = LATER if later else FIRST
        items = items_of(rows.items(), lambda row: [_item(row, folder, version)], path.name)
        return cls(items, version)


def _item(row: Any, folder: Path, version: str) -> AudioQAItem:
    name, question, label = texts(row, KEYS[version])
    if label.capitalize() not in (YES, NO):
        raise ValueError(f"its {KEYS[version][2]} is {label[:80]!r}, neither yes nor no")
    key = KEYS[version][0]
    file = f"{name}.wav" if version == FIRST and not name.lower().endswith(".wav") else name
    return AudioQAItem(
        id=_id(row, f"{name} {question}"),
        question=question,
        choices=(YES, NO),
        answer=label.capitalize(),
        audio=audio_path(file, folder, key),
        facts={name: fact(row.get(name)) for name in FACTS},
        record=row,
    )


def _id(row: Any, otherwise: str) -> str:
    """The row's `entry_id`, a number or text; the recording and the question where it has none."""
    require(row, ())
    found = row.get("entry_id", otherwise)
    if isinstance(found, bool) or not isinstance(found, (int, str)):
        raise ValueError("its entry_id must be a number or text")
    return str(found)
