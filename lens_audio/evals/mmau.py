"""MMAU (Sakshi et al., arXiv 2410.19168): its official score, and its data in both layouts."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lens_audio.data.items import AudioQAItem, check_items, refuse

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
        path = Path(path).expanduser()
        folder = path.parent if audio is None else Path(audio).expanduser()
        for there, what in ((path.is_file(), path), (folder.is_dir(), folder)):
            if not there:
                kind = "file" if what == path else "folder"
                raise FileNotFoundError(f"there is no {kind} {what}")
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
        items, problems = [], []
        names = [f"row {number}" for number in range(len(rows))] if names is None else names
        for name, row, source in zip(names, rows, audio, strict=True):
            try:
                items.append(_item(row, source))
            except ValueError as error:
                problems.append(f"{name}: {error}")
        refuse(problems, where)
        check_items(items, where, needs=("audio",))
        splits = {str(item.record.get("split", "test")) for item in items}
        return cls(items, version, " and ".join(sorted(splits)))


def read_rows(path: Path) -> dict[str, Any]:
    """The rows of a JSON list, or of JSON lines, each by what to call it: "row 0", or "line 1".

    Raises:
        ValueError: for a file that is neither, or has none, naming the line.
    """
    raw = path.read_bytes()
    try:
        # UTF-8, or UTF-16 or 32 as Windows writes them, with a BOM or without.
        text = raw.decode(json.detect_encoding(raw)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not text in {error.encoding}") from error
    if text.lstrip().startswith("{"):  # not splitlines: a text may hold other ends of lines
        lines = enumerate(text.split("\n"), 1)
        rows = {f"line {n}": _parsed(line, path, n) for n, line in lines if line.strip()}
    else:
        parsed = _parsed(text, path)
        rows = {f"row {n}": row for n, row in enumerate(parsed if type(parsed) is list else [])}
    if not rows:
        raise ValueError(f"{path} holds no list of questions")
    return rows


def _parsed(text: str, path: Path, line: int | None = None) -> Any:
    where = path if line is None else f"{path}, line {line}"
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


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
