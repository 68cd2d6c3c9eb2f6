"""MMAR (Ma et al., arXiv 2505.13032): 1,000 questions that take reasoning over mixed sounds.

The keys of a row and the key of predictions, `answer_prediction`, are those of the benchmark's
`MMAR-meta.json` and `code/evaluation.py` as its README and copies of that script tell them. Neither
file was at hand, so that the script's match is MMAU's own rule rests on its README.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks import mmau
from lens_audio.evals.benchmarks.rows import (
    audio_path,
    choices_of,
    fact,
    items_of,
    located,
    read_rows,
    texts,
)

GROUPS = ("modality", "category", "sub-category", "language")


@dataclass(frozen=True, eq=False)
class MMAR:
    """MMAR's questions with their recordings; see `read`."""

    items: Sequence[AudioQAItem]
    version: str = "2025"
    name: str = "MMAR"
    groups: tuple[str, ...] = GROUPS
    prompt: str = "r1-aqa"
    rule: str = "MMAR's own, which is MMAU's: by sets of words"

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """The match of MMAU, on which MMAR's script is based."""
        return mmau.matches(prediction, answer, choices)

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """The benchmark's row with the prediction, under the key of the script and of its README."""
        return {**item.record, "answer_prediction": prediction, "model_prediction": prediction}

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], audio: str | os.PathLike[str] | None = None
    ) -> "MMAR":
        """`MMAR-meta.json`: a JSON list, or JSON lines.

        Args:
            audio: the folder that `audio_path` starts from, or the one that the files lie in; by
                default the folder of the file.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for rows that are no questions, named.
        """
        path, folder = located(path, audio)
        return cls(items_of(read_rows(path).items(), lambda row: [_item(row, folder)], path.name))


def _item(row: Any, folder: Path) -> AudioQAItem:
    name, place, question = texts(row, ("id", "audio_path", "question"))
    return AudioQAItem(
        id=name,
        question=question,
        choices=choices_of(row, "choices"),
        answer=texts(row, ("answer",))[0] if row.get("answer") is not None else None,
        audio=audio_path(place, folder, "audio_path"),
        facts={group: fact(row.get(group)) for group in GROUPS},
        record=row,
    )
