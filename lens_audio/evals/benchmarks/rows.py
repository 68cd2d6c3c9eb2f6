"""What readers of published files share: their rows, the refusal of bad ones, where recordings lie."""

import csv
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from lens_audio.data.items import AudioQAItem, check_items, refuse

SHOWN = 80  # letters of a text that a message repeats
LONGEST_NAME = 255  # bytes of a file's name
TABLES = {".csv": ",", ".tsv": "\t"}
Source = TypeVar("Source")


def located(
    path: str | os.PathLike[str], audio: str | os.PathLike[str] | None
) -> tuple[Path, Path]:
    """A file of questions and the folder of its recordings, by default the one that it lies in.

    Raises:
        FileNotFoundError: if there is no such file or folder.
    """
    path = Path(path).expanduser()
    folder = path.parent if audio is None else Path(audio).expanduser()
    for there, kind, what in ((path.is_file(), "file", path), (folder.is_dir(), "folder", folder)):
        if not there:
            raise FileNotFoundError(f"there is no {kind} {what}")
    return path, folder


def read_rows(path: Path) -> dict[str, Any]:
    """The rows of a JSON list, or of JSON lines, each by what to call it: "row 0", or "line 1".

    Raises:
        ValueError: for a file that is neither, or has none, naming the line.
    """
    return _rows(_text(path), path)


def read_keyed_rows(path: Path) -> dict[str, Any]:
    """As `read_rows`, and the rows of one JSON object by their keys, which become their "id".

    Raises:
        ValueError: as `read_rows`, and for a key that is given more than once.
    """
    text = _text(path)
    try:
        found = json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{") and not error.msg.startswith("Extra data"):
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        return _rows(text, path)  # lines
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(found, Mapping) or not all(
        isinstance(row, Mapping) for row in found.values()
    ):
        return _rows(text, path)
    if not found:
        raise ValueError(f"{path} holds no list of questions")
    return {f"row {key[:SHOWN]!r}": {**row, "id": key} for key, row in found.items()}


def read_table_rows(path: Path) -> dict[str, Any]:
    """As `read_rows`; from a .csv, .tsv or .parquet file, a row a line, with the header's names.

    Raises:
        ImportError: for parquet where pyarrow, which `datasets` brings along, is not installed.
        ValueError: as `read_rows`, and for lines that do not fit the header.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix not in TABLES:
        return read_rows(path)
    lines = io.StringIO(_text(path), newline="")
    reader = csv.DictReader(lines, delimiter=TABLES[suffix], strict=True)
    rows: dict[str, Any] = {}
    try:
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise ValueError(f"{path}: its header has a name twice: {', '.join(header)}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {reader.line_num}: not the {len(header)} fields of the header"
                )
            rows[f"line {reader.line_num}"] = row
    except csv.Error as error:
        raise ValueError(f"{path} is not valid CSV near line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no list of questions")
    return rows


def _parquet_rows(path: Path) -> dict[str, Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError(
            "parquet is read by pyarrow, which comes with: pip install 'lens_audio[parquet]'"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as parquet: {reason}") from error
    if not rows:
        raise ValueError(f"{path} holds no list of questions")
    return {f"row {n}": row for n, row in enumerate(rows)}


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        # UTF-8, or UTF-16 or 32 as Windows writes them, with a BOM or without.
        return raw.decode(json.detect_encoding(raw)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not text in {error.encoding}") from error


def _rows(text: str, path: Path) -> dict[str, Any]:
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


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for one that has a key twice, of which `json` would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:SHOWN]!r} is given more than once")
    return found


def items_of(
    rows: Iterable[tuple[str, Source]],
    make: Callable[[Source], Sequence[AudioQAItem]],
    where: str,
    needs: Collection[str] = ("audio",),
) -> list[AudioQAItem]:
    """The items of all rows, in order, each with an id of its own.

    Args:
        rows: each with what messages call it.
        make: the items of a row; ValueError for a bad one.
        where: what messages call the file.
        needs: of `check_items`.

    Raises:
        ValueError: naming the rows that are no questions.
    """
    items: list[AudioQAItem] = []
    problems = []
    for name, row in rows:
        try:
            items += make(row)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    refuse(problems, where)
    check_items(items, where, needs=needs)
    return items


def require(row: Any, keys: Sequence[str]) -> None:
    """ValueError for a row that is no mapping, or lacks some of these keys."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a {type(row).__name__}, not a question")
    missing = [key for key in keys if key not in row]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")


def texts(row: Any, keys: Sequence[str]) -> list[str]:
    """The values of keys that must be there and be texts.

    Raises:
        ValueError: naming those that are missing or are no texts.
    """
    require(row, keys)
    others = [key for key in keys if not isinstance(row[key], str)]
    if others:
        raise ValueError(f"its {' and '.join(others)} must be text")
    return [row[key] for key in keys]


def choices_of(row: Any, key: str) -> tuple[str, ...]:
    """The value of a key that must be a list of texts.

    Raises:
        ValueError: where it is missing or anything else.
    """
    require(row, [key])
    found = row[key]
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"its {key} must be a list of texts")
    return tuple(found)


def fact(value: Any) -> str:
    """A row's task, category, … as text; 13 rows of MMAU's test-mini have theirs in a list of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return "" if value is None else str(value)


def audio_path(name: str, folder: Path, key: str = "audio_id") -> Path:
    """Where a recording lies in its folder, present or not.

    Args:
        key: what messages call the name.

    Raises:
        ValueError: for a place outside the folder, by `..`, an absolute path or a link.
    """
    path = PurePosixPath(name)
    too_long = any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts)
    if "\0" in name or not path.name or too_long:
        raise ValueError(f"the {key} {name[:SHOWN]!r} names no file")
    if ".." in path.parts:
        raise ValueError(f"the {key} {name[:SHOWN]!r} leaves the folder of recordings")
    places = [folder / name, folder / path.name]
    place = next((place for place in places if os.path.lexists(place)), places[0])
    try:
        inside = place.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        raise ValueError(f"the {key} {name[:SHOWN]!r} names no file") from None
    if not inside:
        raise ValueError(f"the {key} {name[:SHOWN]!r} leads outside the folder of recordings")
    return place
