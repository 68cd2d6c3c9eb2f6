"""Tables as CSV that a spreadsheet opens without running anything, and that read back equal.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`, also behind spaces, tabs or quotes,
and some take `;` or a tab for the end of a cell (OWASP, "CSV Injection"). So a text gets an
apostrophe in front of what could be run, at its beginning and behind each `;`, tab and line break;
and, so that nothing is lost, in front of an apostrophe there, of a text that looks like a number,
and of an empty one. Numbers, such as -0.5, are written as they are; a missing value is an empty cell.
"""

import csv
import os
import re
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lens_audio.files import write_text

# Where a cell may begin, whatever a spreadsheet takes for a separator.
BEGINNING = r"(?<![^;\t\r\n])"
# The last four are the full-width = + - @, which some spreadsheets take for the others.
RUN = re.compile(BEGINNING + r"""(?=[\s"\0\ufeff]*[=+\-@'\t\r\n\uff1d\uff0b\uff0d\uff20])""")
APOSTROPHE = re.compile(BEGINNING + "'")


def table_text(table: pd.DataFrame) -> str:
    """The columns of a table as CSV; see the module.

    Raises:
        ValueError: for a name that two columns have.
    """
    if not table.columns.is_unique:
        raise ValueError(f"two columns have one name: {', '.join(map(str, table.columns))}")
    # Of `array`, as iterating over a column would widen float32 and print its rounding.
    columns = [map(_cell, table[name].array) for name in table]
    rows = [map(_cell, map(str, table)), *zip(*columns, strict=True)]
    return "".join(",".join(map(_quoted, row)) + "\n" for row in rows)


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table as CSV, whole or not at all: `read_table` gives it back.

    Raises:
        OSError: if the path cannot be written.
    """
    return write_text(path, table_text(table))


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table that `write_table` wrote, texts as they were before.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a file that is no table, naming the line.
    """
    path = Path(path).expanduser()
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        rows = []
        try:
            header = [str(_text(cell)) for cell in next(reader, [])]
            for row in reader:
                row = row or [""]  # a line with nothing is a missing value of a single column
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} cells under {len(header)} columns")
                rows.append([_value(cell) for cell in row])
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return pd.DataFrame({n: _series(cells) for n, cells in zip(header, columns, strict=True)})


def _cell(value: Any) -> str:
    """A number as it is, nothing for a missing value, anything else as a harmless text."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    text = str(value)
    if isinstance(value, (Number, np.bool_)):
        return text
    safe = RUN.sub("'", text)
    return f"'{text}" if safe == text and not isinstance(_value(text), str) else safe


def _quoted(cell: str) -> str:
    """In quotes where it holds anything that could end a cell (the csv module forgets `\\r`)."""
    return '"' + cell.replace('"', '""') + '"' if re.search('[",;\t\r\n]', cell) else cell


def _text(cell: str) -> str:
    return APOSTROPHE.sub("", cell)


def _value(cell: str) -> Any:
    """What a cell holds: nothing, True or False, a number, or else a text."""
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return _text(cell)


def _series(cells: Any) -> pd.Series:
    """A column of one kind as numpy has it, integers with missing ones as Int64."""
    series = pd.Series(cells, dtype=object)
    kinds = {type(value) for value in series.dropna()}
    if kinds == {int} and bool(series.isna().any()):
        return series.astype("Int64")
    return series.astype(float) if kinds in ({float}, {int, float}) else series.infer_objects()
