"""MMAU (Sakshi et al., arXiv 2410.19168): its official score, and its data in both layouts."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lens_audio.evals.items import AudioQAItem, check_items, refuse

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

    @property
    def name(self) -> str:
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
            audio: the folder that `audio_id` starts from, or the one that the files lie in;
                by default the folder of the JSON file.
            version: of the benchmark, which the file does not tell.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for rows that are no questions, named, or an unknown version.
        """
        path = Path(path).expanduser()
        folder = path.parent if audio is None else Path(audio).expanduser()
        for there, what in ((path.is_file(), path), (folder.is_dir(), folder)):
            if not there:
                raise FileNotFoundError(f"there is no {what}")
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{path} holds no list of questions")
        return cls.of_rows(rows, [folder] * len(rows), version, path.name)

    @classmethod
    def of_rows(cls, rows: Sequence[Any], audio: Sequence[Any], version: str, where: str) -> "MMAU":
        """Questions as the official JSON has them, each with its folder or its stored recording.

        Raises:
            ValueError: naming the rows that are no questions, or for an unknown version.
        """
        if version not in VERSIONS:
            raise ValueError(f"MMAU has the versions {', '.join(VERSIONS)}, not {version!r}")
        items, problems = [], []
        for number, (row, source) in enumerate(zip(rows, audio, strict=True)):
            try:
                items.append(_item(row, source))
            except ValueError as error:
                problems.append(f"row {number}: {error}")
        refuse(problems, where)
        check_items(items, where)
        splits = {str(item.record.get("split", "test")) for item in items}
        return cls(items, version, " and ".join(sorted(splits)))


def _item(row: Any, source: Any) -> AudioQAItem:
    if not isinstance(row, Mapping):
        raise ValueError(f"a {type(row).__name__}, not a question")
    needed = ["id", "question", "choices"]
    if isinstance(source, Path):
        needed.append("audio_id")
    missing = [key for key in needed if key not in row]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
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
        facts={name: _fact(row.get(name)) for name in GROUPS},
        record=row,
    )


def _fact(value: Any) -> str:
    """A row's task, category, …; 13 rows of test-mini have theirs in a list of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return "" if value is None else str(value)


def audio_path(audio_id: str, folder: Path) -> Path:
    """Where a recording lies in its folder, present or not.

    Raises:
        ValueError: for a place outside the folder, by `..`, an absolute path or a link.
    """
    if "\0" in audio_id or not PurePosixPath(audio_id).name:
        raise ValueError(f"the audio_id {audio_id[:80]!r} names no file")
    if ".." in PurePosixPath(audio_id).parts:
        raise ValueError(f"the audio_id {audio_id[:80]!r} leaves the folder of recordings")
    root = folder.resolve()
    places = [folder / audio_id, folder / PurePosixPath(audio_id).name]
    place = next((place for place in places if os.path.lexists(place)), places[0])
    if not place.resolve().is_relative_to(root):
        raise ValueError(f"the audio_id {audio_id[:80]!r} leads outside the folder of recordings")
    return place
