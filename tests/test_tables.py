"""Tables: nothing in them is run by a spreadsheet, and they read back as they were."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.tables import read_table, table_text, write_table

# https://owasp.org/www-community/attacks/CSV_Injection, with the full-width forms
DANGEROUS = "=+-@＝＋－＠"
HOSTILE = st.text(st.sampled_from(DANGEROUS + "'\" ;,\t\r\nab1.0"), max_size=12)


def cells(text: str, separator: str) -> list[str]:
    """Every cell, as a spreadsheet sees it that takes this for the separator."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    return [cell for row in rows for cell in row]


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", '"=1', "＝1+1", "－1", "-", "-0.5"],
)
def test_a_formula_becomes_a_text_that_begins_with_an_apostrophe(text: str) -> None:
    written = table_text(pd.DataFrame({"token": [text]}))
    assert cells(written, ",")[1] == "'" + text.replace("\t=", "\t'=").replace("\r=", "\r'=")


def test_negative_numbers_stay_numbers() -> None:
    frame = pd.DataFrame(
        {"change": [-0.5, 1e-9, np.nan], "head": [-1, 0, 2], "right": [True, False, True]}
    )
    assert table_text(frame) == "change,head,right\n-0.5,-1,True\n1e-09,0,False\n,2,True\n"


def test_plain_texts_are_written_as_they_are() -> None:
    frame = pd.DataFrame({"position": ["0.00-0.25 s", "last", "a, b", "it's"]})
    assert table_text(frame) == 'position\n0.00-0.25 s\nlast\n"a, b"\nit\'s\n'


@settings(max_examples=50)
@given(st.lists(HOSTILE, min_size=1, max_size=4), st.sampled_from(",;\t"))
def test_no_separator_makes_a_formula_of_a_text(texts: list[str], separator: str) -> None:
    written = table_text(pd.DataFrame({"=head": texts}))
    for cell in cells(written, separator):
        stripped = cell.lstrip(' "\t\r\n')
        assert not stripped.startswith(tuple(DANGEROUS)), written


@settings(max_examples=50)
@given(
    st.lists(
        st.one_of(
            HOSTILE,
            st.text(max_size=8),
            st.sampled_from(
                ["", "001", "nan", "NA", "None", "True", "-inf", "1_0", "1e5", "'", "''", "'=1"]
            ),
        ),
        min_size=1,
    )
)
def test_any_text_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    texts = [text.encode("utf-8", "replace").decode() for text in texts]  # no half characters
    frame = pd.DataFrame({"'name": texts, "n": np.arange(len(texts))})
    pd.testing.assert_frame_equal(read_table(write_table(frame, path)), frame, check_dtype=False)


def test_numbers_and_nothing_read_back_as_they_were(tmp_path) -> None:
    frame = pd.DataFrame(
        {
            "value": [0.1, -np.inf, np.nan],
            "layer": [3, -2, 2**53 + 1],
            "head": pd.array([1, None, 2], dtype="Int64"),
            "chosen": [True, False, True],
            "token": ["=", None, "7"],
            "mixed": [1, "1", None],
        }
    )
    found = read_table(write_table(frame, tmp_path / "t.csv"))
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    assert [found[name].dtype.kind for name in ("value", "layer", "head", "chosen")] == list("fiib")


def test_a_table_without_rows_keeps_its_columns(tmp_path) -> None:
    frame = pd.DataFrame({"a": [], "b": []})
    assert list(read_table(write_table(frame, tmp_path / "t.csv"))) == ["a", "b"]


def test_an_earlier_table_stays_until_the_new_one_is_whole(tmp_path) -> None:
    path = write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_table(pd.DataFrame({"a": [2]}), tmp_path / "none" / "t.csv")
    assert path.read_text() == "a\n1\n"


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two columns have one name: a, a"):
        table_text(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_file_that_is_no_table_is_refused_by_its_line(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 3: 1 cells under 2 columns"):
        read_table(path)
