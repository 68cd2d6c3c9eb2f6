"""Published files are read, and what is wrong in them is named."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from published_rows import ALME, FIRST, LATER, MMAR, RULISTENING

import lens_audio as la
from lens_audio.data.wording import WORDINGS
from lens_audio.evals.benchmarks import BENCHMARKS, alme, read
from lens_audio.evals.benchmarks.rulistening import RUListening
from lens_audio.evals.items import AudioQADataset
from lens_audio.evals.metrics import rule_of

MMAU = {"id": "a", "audio_id": "clips/a.wav", "question": "What?", "choices": ["dog", "cat"],
        "answer": "dog"}  # fmt: skip
RUL = {"id": "a", **RULISTENING}
ROWS = {"mmau": [MMAU], "mmar": [MMAR], "rulistening": [RUL], "alme": [ALME],
        "object-hallucination": [FIRST, LATER]}  # fmt: skip
EVERY = [(name, row) for name, rows in ROWS.items() for row in rows]
IDS = {"mmau": "id", "mmar": "id", "rulistening": "id", "alme": "stimulus_id",
       "object-hallucination": "entry_id"}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with a recording inside, and a link out of it."""
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.wav", np.zeros(1600), 16000)
    soundfile.write(tmp_path / "outside.wav", np.zeros(1600), 16000)
    (tmp_path / "data" / "link.wav").symlink_to(tmp_path / "outside.wav")
    return tmp_path / "data"


def as_list(rows):
    return json.dumps(rows, ensure_ascii=False)


def as_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def written(folder, name, *rows, layout=as_list, encoding="utf-8", file="questions.json"):
    (folder / file).write_bytes(layout(list(rows)).encode(encoding))
    return read(name, folder / file)


def another(name, row):
    """The same question under another id."""
    return {**row, IDS[name]: "b"}


@pytest.mark.parametrize(("name", "row"), EVERY)
@pytest.mark.parametrize("layout", [as_list, as_lines])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_lines_are_read_in_any_encoding(folder, name, row, layout, encoding):
    found = written(folder, name, row, another(name, row), layout=layout, encoding=encoding)
    assert isinstance(found, AudioQADataset)
    assert found.prompt in WORDINGS
    assert rule_of(found)
    records = list({id(item.record): item.record for item in found.items}.values())
    assert records == [row, another(name, row)]
    for item in found.items:
        assert item.answer in item.choices
        assert set(found.groups) <= set(item.facts)
        assert json.loads(json.dumps(found.official_row(item, item.answer)))


@pytest.mark.parametrize(("name", "row"), [(n, r) for n, r in EVERY if n != "rulistening"])
def test_the_recording_lies_in_the_folder(folder, name, row):
    assert written(folder, name, row).items[0].audio.is_file()


def wrong_type(row, key):
    return {**row, key: {"text": 3.5} if isinstance(row[key], (str, int)) else "text"}


REQUIRED = {"mmau": ("id", "question", "choices", "audio_id"),
            "mmar": ("id", "audio_path", "question", "choices"),
            "rulistening": ("id", "question", "correct_answer", "distractors"),
            "alme": ("stimulus_id", "audio_path", "ref_text", "conflict_text", "question")}  # fmt: skip
KEYS = [(name, ROWS[name][0], key) for name, keys in REQUIRED.items() for key in keys]
KEYS += [("object-hallucination", FIRST, key) for key in ("audio_index", "prompt_text", "label")]
KEYS += [("object-hallucination", LATER, key) for key in ("audio", "query")]


@pytest.mark.parametrize(("name", "row", "key"), KEYS)
def test_keys_that_are_missing_or_of_another_type_are_named(folder, name, row, key):
    lacking = {other: value for other, value in row.items() if other != key}
    with pytest.raises(ValueError, match=rf"questions\.json: row 1: it has no {key}"):
        written(folder, name, another(name, row), lacking)
    with pytest.raises(ValueError, match=rf"questions\.json: row 1: its .*{key}"):
        written(folder, name, another(name, row), wrong_type(row, key))


@pytest.mark.parametrize("key", ["question_text", "choices", "correct_answer"])
def test_keys_of_a_question_of_alme_are_required(folder, key):
    question = {other: value for other, value in ALME["question"].items() if other != key}
    with pytest.raises(ValueError, match=f"row 0: it has no {key}"):
        written(folder, "alme", {**ALME, "question": question})


@pytest.mark.parametrize(("name", "row"), EVERY)
def test_ids_given_twice_are_refused(folder, name, row):
    with pytest.raises(ValueError, match="given more than once"):
        written(folder, name, row, row)


PLACES = [("mmar", MMAR, "audio_path"), ("alme", ALME, "audio_path"), ("mmau", MMAU, "audio_id"),
          ("object-hallucination", LATER, "audio"), ("object-hallucination", FIRST, "audio_index"),
          ("rulistening", RUL, "id")]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "key"), PLACES)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../outside", "leaves the folder"), ("/etc/passwd", "leads outside the folder"),
        ("a\0", "names no file"), ("x" * 5000, "names no file"), ("\ud800", "row 0: "),
    ],
)  # fmt: skip
def test_recordings_outside_the_folder_are_refused(folder, name, row, key, place, message):
    with pytest.raises(ValueError, match=message) as caught:
        written(folder, name, {**row, key: place}, layout=json.dumps)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("name", "key"), [("mmar", "audio_path"), ("alme", "audio_path")])
def test_a_link_out_of_the_folder_or_in_a_circle_is_refused(folder, name, key):
    (folder / "circle.wav").symlink_to("circle.wav")
    with pytest.raises(ValueError, match=f"the {key} 'circle.wav' names no file"):
        written(folder, name, {**ROWS[name][0], key: "circle.wav"})
    with pytest.raises(ValueError, match=f"the {key} 'link.wav' leads outside"):
        written(folder, name, {**ROWS[name][0], key: "link.wav"})


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("mmar", {**MMAR, "answer": "a cup"}, "'a cup' is none of its choices"),
        ("mmar", {**MMAR, "choices": ["a glass", "a glass"]}, "at least two different choices"),
        ("mmar", {**MMAR, "question": "\ud83d?"}, "half a character"),
        ("mmar", {**MMAR, "question": "x" * 20_001}, "20001 letters"),
        ("rulistening", {**RUL, "distractors": ["flute"]}, "its distractors are 1, not two"),
        ("rulistening", {**RUL, "question": " "}, "the question is empty"),
        ("alme", {**ALME, "conflict_text": "x" * 20_000}, r"a text of 20\d\d\d letters"),
        ("alme", {**ALME, "ref_text": "\udfff"}, "half a character"),
        ("alme", {**ALME, "question": {**ALME["question"], "correct_answer": "five"}},
         "'five' is none of its choices"),
        ("object-hallucination", {**FIRST, "label": "maybe"}, "'maybe', neither yes nor no"),
        ("object-hallucination", {**FIRST, "entry_id": True}, "its entry_id must be a number"),
        ("object-hallucination", {**FIRST, "prompt_text": ""}, "the question is empty"),
    ],
)  # fmt: skip
def test_a_hostile_row_is_refused(folder, name, row, message):
    with pytest.raises(ValueError, match=message) as caught:
        written(folder, name, row, layout=json.dumps)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("text", ["{", "[]", "[3]", '"x"', "null", '{"a": 1}', "[" * 99_999])
def test_files_that_hold_no_questions_are_refused(folder, name, text):
    (folder / "questions.json").write_text(text)
    with pytest.raises(ValueError, match=r"questions\.json"):
        read(name, folder / "questions.json")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_missing_is_told_as_what_it_is(folder, name):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(name, folder / "none.json")
    written(folder, name, ROWS[name][0])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read(name, folder / "questions.json", folder / "none")


def test_an_unknown_benchmark_is_refused_with_those_there_are(folder):
    with pytest.raises(ValueError, match=r"no benchmark 'mmsu'; there are mmau, mmar, rulistening"):
        read("mmsu", folder)


def test_reading_needs_no_torch(folder):
    written(folder, "alme", ALME)
    code = (
        "import sys; from lens_audio.evals.benchmarks import read; "
        f"read('alme', {str(folder / 'questions.json')!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_name_of_the_match_of_mmau_stays():
    assert la.evals.mmau.matches("a dog", "dog", ["dog", "cat"])
    assert la.evals.benchmarks.read is read


# RUListening
def test_questions_of_rulistening_by_their_ids(folder):
    found = written(folder, "rulistening", layout=lambda _: json.dumps({"7": RULISTENING}))
    assert [item.id for item in found.items] == ["7-0", "7-1", "7-2", "7-3"]
    assert {found.unit(item) for item in found.items} == {"7"}
    assert found.items[0].audio == folder / "7.mp3"
    for item, left_out in zip(found.items, RULISTENING["distractors"], strict=True):
        assert set(item.choices) == {"oboe", "flute", "viola", "harp", "horn"} - {left_out}
        assert len(item.choices) == 4


def test_the_order_of_choices_is_that_of_the_seed_and_the_question(folder):
    questions = {str(n): RULISTENING for n in range(30)}
    path = folder / "rul.json"
    path.write_text(json.dumps(questions))
    first = [item.choices for item in RUListening.read(path).items]
    path.write_text(json.dumps(dict(reversed(questions.items()))))
    again = {item.id: item.choices for item in RUListening.read(path).items}
    assert first == [again[f"{n}-{left}"] for n in range(30) for left in range(4)]
    assert first != [item.choices for item in RUListening.read(path, seed=1).items]
    assert {choices.index("oboe") for choices in first} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"7": %s, "7": %s}', "the key '7' is given more than once"),
        ('{"7": %s, "8": %s', "is not valid JSON: "),
        ("{}", "holds no list of questions"),
        ('{"7": %s, "8": {}}', "row '8': it has no question, correct_answer"),
    ],
)
def test_what_is_wrong_in_questions_by_id_is_told(folder, text, message):
    (folder / "rul.json").write_text(text.replace("%s", json.dumps(RULISTENING)))
    with pytest.raises(ValueError, match=message):
        read("rulistening", folder / "rul.json")


# ALME
def test_the_conditions_of_alme(folder):
    found = written(folder, "alme", ALME)
    asked = {item.condition: item for item in found.items}
    assert [item.id for item in found.items] == [f"cv1-{name}" for name in alme.CONDITIONS]
    assert {found.unit(item) for item in found.items} == {"cv1"}
    held = {
        name: [number for number in ("three dogs", "four dogs") if number in item.question]
        for name, item in asked.items()
    }
    assert held == {"audio_only": [], "text_only": ["three dogs"],
                    "audio_text_aligned": ["three dogs"], "audio_text_conflict": ["four dogs"]}  # fmt: skip
    assert [name for name, item in asked.items() if item.audio is None] == ["text_only"]
    assert all('Choices: ["four", "three"]' in item.question for item in found.items)
    assert asked["audio_only"].facts["flip_type"] == "number_swap"


def test_braces_in_a_transcript_stay_as_they_are(folder):
    found = written(folder, "alme", {**ALME, "conflict_text": "{text} {0} {question}"})
    assert '"{text} {0} {question}"' in found.items[-1].question


def test_unknown_conditions_are_refused(folder):
    for conditions in (["audio"], []):
        with pytest.raises(ValueError, match="conditions are of audio_only, text_only"):
            alme.ALME.read(folder / "none", conditions=conditions)


# Object hallucination
def as_csv(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("file", "delimiter"), [("set.csv", ","), ("set.TSV", "\t")])
def test_tables_of_text_are_read(folder, encoding, file, delimiter):
    rows = [
        {**FIRST, "prompt_text": 'A "sound",\nof rain?'},
        {**FIRST, "entry_id": 1, "label": "yes"},
    ]
    found = written(folder, "object-hallucination", *rows, encoding=encoding, file=file,
                    layout=lambda rows: as_csv(rows, delimiter))  # fmt: skip
    first, second = found.items
    assert (first.id, first.question) == ("0", 'A "sound",\nof rain?')
    assert (second.answer, second.choices) == ("Yes", ("Yes", "No"))


def test_parquet_is_read(folder):
    table = pytest.importorskip("datasets").Dataset
    table.from_list([FIRST, {**FIRST, "entry_id": 1}]).to_parquet(folder / "set.parquet")
    assert [item.id for item in read("object-hallucination", folder / "set.parquet").items] == [
        "0",
        "1",
    ]
    (folder / "set.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"set\.parquet cannot be read as parquet: \S"):
        read("object-hallucination", folder / "set.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio,query\na,b,c\n", "line 2: not the 2 fields of the header"),
        ("audio,query\na\n", "line 2: not the 2 fields of the header"),
        ("audio,audio\na,b\n", "its header has a name twice"),
        ("audio,query\n", "holds no list of questions"),
        ("", "holds no list of questions"),
        ('audio,query\na,"b', "is not valid CSV near line 1: unexpected end"),
        ("audio,query\na," + "b" * 200_000, "is not valid CSV near line 1: field larger"),
        ("audio,query,ground_truth\na.wav,b,yes\n,b,yes\n", "line 3: the audio '' names no file"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_with_its_line(folder, text, message):
    (folder / "set.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read("object-hallucination", folder / "set.csv")


def test_both_kinds_of_sets_keep_their_keys(folder):
    first = written(folder, "object-hallucination", FIRST)
    later = written(folder, "object-hallucination", LATER)
    assert (first.version, later.version) == ("first", "later")
    assert first.items[0].audio == folder / "a.wav"
    assert first.official_row(first.items[0], "No") == {
        "entry_id": 0, "audio_index": "a", "label": "No", "response": "No",
    }  # fmt: skip
    assert later.official_row(later.items[0], "No")["label"] == "Yes"
    assert later.unit(later.items[0]) == "clips/a.wav"


def test_rows_without_a_number_are_told_apart_by_recording_and_question(folder):
    row = {key: value for key, value in FIRST.items() if key != "entry_id"}
    found = written(folder, "object-hallucination", row, {**row, "prompt_text": "Is there wind?"})
    assert [item.id for item in found.items] == ["a Is there a sound of rain?", "a Is there wind?"]
