"""MMAU's two layouts, rows that are refused, and the official score of what is written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from real_tokenizer import shared_data

from lens_audio.data.batches import BatchDataset, load
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks.mmau import MMAU, matches
from lens_audio.evals.benchmarks.mmau_parquet import read_parquet
from lens_audio.evals.items import missing_audio

ROW = {
    "id": "a", "audio_id": "./clips/a.wav", "question": "What?", "choices": ["dog", "cat"],
    "answer": "dog", "task": "sound", "split": "test-mini", "category": ["Reasoning"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with a recording inside, and one outside."""
    (tmp_path / "data" / "clips").mkdir(parents=True)
    for place in ("data/clips/a.wav", "outside.wav"):
        soundfile.write(tmp_path / place, np.zeros(1600), 16000)
    return tmp_path / "data"


def read(folder, *rows, **options):
    (folder / "mmau.json").write_text(json.dumps(rows))
    return MMAU.read_json(folder / "mmau.json", **options)


def test_a_question_in_the_official_layout(folder):
    found = read(folder, ROW, version="v05.15.25")
    assert (found.name, found.version) == ("MMAU test-mini", "v05.15.25")
    (item,) = found.items
    assert (item.question, item.choices, item.answer) == ("What?", ("dog", "cat"), "dog")
    assert item.audio == folder / "clips" / "a.wav"
    assert item.facts["category"] == "Reasoning"
    assert item.facts["difficulty"] == ""


def test_the_folder_of_recordings_may_be_named_itself(folder):
    assert read(folder, ROW, audio=folder / "clips").items[0].audio.is_file()
    assert missing_audio(read(folder, {**ROW, "audio_id": "b.wav"}).items)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_id": "../outside.wav"}, "leaves the folder"),
        ({"audio_id": "clips/../../outside.wav"}, "leaves the folder"),
        ({"audio_id": "/etc/passwd"}, "leads outside the folder"),
        ({"audio_id": "link.wav"}, "leads outside the folder"),
        ({"audio_id": ""}, "names no file"),
        ({"audio_id": "a\0.wav"}, "names no file"),
        ({"audio_id": None}, "must be texts"),
        ({"id": 3}, "must be texts"),
        ({"choices": "dog, cat"}, "choices are no list"),
        ({"choices": ["dog", 3]}, "must be texts"),
        ({"answer": "cow"}, "none of its choices"),
        ({"question": "x" * 10_000_000}, "10000000 letters"),
    ],
)
def test_a_hostile_row_is_refused(folder, changes, message):
    (folder / "link.wav").symlink_to(folder.parent / "outside.wav")
    with pytest.raises(ValueError, match=message) as caught:
        read(folder, ROW, {**ROW, "id": "b", **changes})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("key", ["id", "audio_id", "question", "choices"])
def test_a_row_without_a_key_is_refused(folder, key):
    row = {name: value for name, value in ROW.items() if name != key}
    with pytest.raises(ValueError, match=f"row 0: it has no {key}"):
        read(folder, row)


def test_an_absolute_path_inside_the_folder_is_taken(folder):
    row = {**ROW, "audio_id": str(folder.resolve() / "clips" / "a.wav")}
    assert read(folder, row).items[0].audio.is_file()


def test_ids_given_twice_are_refused(folder):
    with pytest.raises(ValueError, match="'a' is given more than once"):
        read(folder, ROW, ROW)


@pytest.mark.parametrize("text", ["{", "{}", "[]", "[3]", '"x"'])
def test_files_that_hold_no_questions_are_refused(folder, text):
    (folder / "mmau.json").write_text(text)
    with pytest.raises(ValueError, match=r"mmau\.json"):
        MMAU.read_json(folder / "mmau.json")


def as_list(rows):
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_lines_of_windows(rows):
    return "\r\n\r\n" + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize("layout", [as_list, as_lines, as_lines_of_windows])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["mmau.json", "mmau.jsonl"])
def test_lists_and_lines_are_read_in_any_encoding_of_json(folder, layout, encoding, name):
    rows = [{**ROW, "question": "Wo?\u2028Où?\x85"}, {**ROW, "id": "b", "question": "何?"}]
    (folder / name).write_bytes(layout(rows).encode(encoding))
    items = MMAU.read_json(folder / name).items
    assert [item.record for item in items] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'%b\n\n{"id": "b"}\n', r"mmau\.jsonl: line 3: it has no question, choices, audio_id"),
        (b'\xef\xbb\xbf%b\n{"id": \n', r"mmau\.jsonl, line 2 is not valid JSON"),
        (b"%b\n[1]\n", r"mmau\.jsonl: line 2: a list, not a question"),
        (b"%b\n\n\xff\n", r"mmau\.jsonl, line 3: not text in utf-8"),
        (b"%b %b\n", r"mmau\.jsonl, line 1 is not valid JSON: Extra data"),
        (b"[%b,\n%b", r"mmau\.jsonl is not valid JSON: .*line 2"),
        (b"\n \r\n", r"mmau\.jsonl is not valid JSON"),
        (b"[" * 100_000, r"mmau\.jsonl is nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(folder, text, message):
    row = json.dumps(ROW).encode()
    (folder / "mmau.jsonl").write_bytes(text.replace(b"%b", row))
    with pytest.raises(ValueError, match=message):
        MMAU.read_json(folder / "mmau.jsonl")


def test_what_is_missing_is_told_as_what_it_is(folder):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        MMAU.read_json(folder / "none.json")
    read(folder, ROW)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        MMAU.read_json(folder / "mmau.json", folder / "none")


def test_an_unknown_version_is_refused(folder):
    with pytest.raises(ValueError, match=r"first, v05\.15\.25, not 'v2'"):
        read(folder, ROW, version="v2")


def test_withheld_answers_are_none(folder):
    row = {name: value for name, value in ROW.items() if name != "answer"}
    assert read(folder, {**row, "split": "test"}).items[0].answer is None


# The two layouts of the hub.
ATTRIBUTES = {"id": "a", "task": "sound", "category": ["Reasoning"], "split": "test-mini"}
AUTHORS = {
    "instruction": "What?", "choices": ["(A) dog", "(B) cat"], "answer": "(A) dog",
    "other_attributes": json.dumps(ATTRIBUTES),
}  # fmt: skip
OTHERS = {
    "question_id": "a", "question": "What?", "choices": '["(A) dog", "(B) cat"]',
    "answer": "(A) dog", "task": "sound", "category": "Reasoning",
}  # fmt: skip


@pytest.mark.parametrize(("row", "column"), [(AUTHORS, "context"), (OTHERS, "audio")])
def test_the_layouts_of_the_hub(folder, row, column, model):
    table = pytest.importorskip("datasets").Dataset
    good = {"bytes": (folder / "clips" / "a.wav").read_bytes(), "path": None}
    bad = {"bytes": b"no sound", "path": None}
    second = json.loads(json.dumps(row).replace('\\"a\\"', '\\"b\\"').replace('"a"', '"b"'))
    rows = [{**row, column: good}, {**second, column: bad}]
    table.from_list(rows).to_parquet(folder / "test.parquet")
    for path in (folder, folder / "test.parquet"):
        found = read_parquet(path)
    first, other = found.items
    assert found.version == "v05.15.25"
    assert (first.question, first.choices) == ("What?", ("(A) dog", "(B) cat"))
    assert (first.answer, first.facts["category"]) == ("(A) dog", "Reasoning")
    batches = BatchDataset([found.items], model.processor, wording("plain"), 4.0, 2048, 8)
    loaded = next(load(batches, 0))
    assert loaded.items == [first]
    assert "cannot be read as audio" in loaded.failed[other.id]


def test_parquet_without_recordings_is_refused(folder):
    table = pytest.importorskip("datasets").Dataset
    table.from_list([AUTHORS]).to_parquet(folder / "test.parquet")
    with pytest.raises(ValueError, match="no column of audio"):
        read_parquet(folder / "test.parquet")
    with pytest.raises(FileNotFoundError, match="no parquet file"):
        read_parquet(folder / "clips")


def test_damaged_parquet_is_told_as_that(folder):
    pytest.importorskip("datasets")
    (folder / "test.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"test\.parquet cannot be read as parquet: \S"):
        read_parquet(folder / "test.parquet")


# MMAU test-mini itself.
@pytest.fixture(scope="module")
def mini():
    return MMAU.read_json(shared_data("mmau/mmau-test-mini.json"))


def test_all_questions_of_test_mini_load_and_format(mini):
    assert len(mini.items) == 1000
    assert {item.facts["task"] for item in mini.items} == {"sound", "music", "speech"}
    assert {item.facts["category"] for item in mini.items} == {
        "Reasoning",
        "Information Extraction",
    }
    for item in mini.items:
        asked = wording("r1-aqa").ask(item.question, item.choices)
        assert asked.startswith(item.question)
        assert str(list(item.choices)) in asked


def official(row):
    """The rule of MMAU's `evaluation.py`, written anew from its description."""

    def words(text):
        return set(re.findall(r"\b\w+\b", text.lower()))

    said, right = words(row["model_prediction"]), words(row["answer"])
    wrong = set()
    for choice in row["choices"]:
        if words(choice) != right:
            wrong |= words(choice) - right
    return bool(said) and right <= said and said.isdisjoint(wrong)


def test_the_official_rule_scores_our_file_as_we_do(mini, tmp_path):
    rng = np.random.default_rng(0)
    said = []
    for item in mini.items:
        options = [*item.choices, f"The answer is {item.answer}.", " ".join(item.choices), ""]
        said.append(options[rng.integers(len(options))])
    path = tmp_path / "predictions.json"
    rows = [mini.official_row(item, text) for item, text in zip(mini.items, said, strict=True)]
    path.write_text(json.dumps(rows))
    ours = [matches(t, i.answer, i.choices) for i, t in zip(mini.items, said, strict=True)]
    written = json.loads(path.read_text())
    assert [official(row) for row in written] == ours
    assert 200 < sum(ours) < 600
    original = json.loads(Path(shared_data("mmau/mmau-test-mini.json")).read_text())
    for row, before in zip(written, original, strict=True):
        assert row.pop("model_prediction") == row.pop("model_output")
        assert row == before
