"""MMAU (Sakshi et al., arXiv 2410.19168): its official score, and its data in both layouts."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks.rows import (
    audio_path,
    fact,
    items_of,
    located,
    read_rows,
    require,
)

FIRST, REVISED = "first", "v05.15.25"  # about a quarter of the questions were revised in May 2025
VERSIONS = (FIRST, REVISED)
GROUPS = ("task", "difficulty", "category", "sub-category")


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


@dataclass(frozen=True, eq=False)
class MMAU:
    """MMAU's questions with their recordings; see `read_json` and `read_parquet`."""

    items: Sequence[AudioQAItem]
    version: str
    split: str  # "test-mini" or "test"
    groups: tuple[str, ...] = GROUPS
    prompt: str = "r1-aqa"
    rule: str = "MMAU's own: evaluation.py, by sets of words"

    @property
    def name(self) -> str:
        """ "MMAU test-mini" or "MMAU test"."""
        return f"MMAU {self.split}"

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """The official match."""
        return matches(prediction, answer, choices)

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """The benchmark's row with the prediction, under the keys of either version's script."""
        return {**item.record, "model_prediction": prediction, "model_output": prediction}

    @classmethod
    def read_json(
        cls,
        path: str | os.PathLike[str],
        audio: str | os.PathLike[str] | None = None,
        version: str = FIRST,
    ) -> "MMAU":
        """The official layout: a JSON list of questions, and a folder of recordings.

        Args:
            path: the list; or JSON lines, a question a line. Either may begin with a BOM.
            audio: the folder that `audio_id` starts from, or the one that the files lie in;
                by default the folder of the JSON file.
            version: of the benchmark, which the file does not tell.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for rows that are no questions, named, or an unknown version.
        """
        path, folder = located(path, audio)
        rows = read_rows(path)
        names, found = list(rows), list(rows.values())
        return cls.of_rows(found, [folder] * len(rows), version, path.name, names)

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Any],
        audio: Sequence[Any],
        version: str,
        where: str,
        names: Sequence[str] | None = None,
    ) -> "MMAU":
        """Questions as the official JSON has them, each with its folder or its stored recording.

        Args:
            names: what messages call the rows; by default "row 0", ….

        Raises:
            ValueError: naming the rows that are no questions, or for an unknown version.
        """
        if version not in VERSIONS:
            raise ValueError(f"MMAU has the versions {', '.join(VERSIONS)}, not {version!r}")
        names = [f"row {number}" for number in range(len(rows))] if names is None else names
        named = zip(names, zip(rows, audio, strict=True), strict=True)
        items = items_of(named, lambda question: [_item(*question)], where)
        splits = {str(item.record.get("split", "test")) for item in items}
        return cls(items, version, " and ".join(sorted(splits)))


def _item(row: Any, source: Any) -> AudioQAItem:
    needed = ["id", "question", "choices"]
    if isinstance(source, Path):
        needed.append("audio_id")
    require(row, needed)
    texts = [row[key] for key in needed if key != "choices"]
    choices, answer = row["choices"], row.get("answer")
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise ValueError("its choices are no list")
    texts += [*choices, *([] if answer is None else [answer])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its id, audio_id, question, answer and choices must be texts")
    return AudioQAItem(
        id=row["id"],
        question=row["question"],
        choices=tuple(choices),
        answer=answer,
        audio=audio_path(row["audio_id"], source) if isinstance(source, Path) else source,
        facts={name: fact(row.get(name)) for name in GROUPS},
        record=row,
    )
