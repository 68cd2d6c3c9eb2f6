"""The journal: what is done is kept, what is not is dropped, and another run is refused."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lens_audio.evals.journal import Journal
from lens_audio.evals.records import check_recorded
from lens_audio.fingerprint import differences

MANIFEST = {"model": {"name": "a", "weights": "0"}, "settings": {"seed": 1, "ks": (2, 4)}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def begin(path, manifest=MANIFEST, n=0):
    journal = Journal(path, manifest)
    for batch in range(n):
        journal.append("answers", batch, {"items": [batch]})
    journal.close()
    return journal


def test_what_was_done_is_known_when_it_is_opened_again(path):
    begin(path, n=3)
    assert begin(path).done == {("answers", n): {"items": [n]} for n in range(3)}


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_journal_cut_anywhere_holds_the_batches_before(path, data):
    path.unlink(missing_ok=True)
    begin(path, n=3)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    n_lines = whole[:cut].count(b"\n")
    assert len(begin(path).done) == max(0, n_lines - 1)
    assert path.read_bytes() == b"".join(whole.splitlines(True)[: max(1, n_lines)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({**MANIFEST, "model": {"name": "b", "weights": "0"}}, "model name was 'a' and is 'b'"),
        ({**MANIFEST, "model": {"name": "a", "weights": "1"}}, "model weights was '0' and is '1'"),
        ({**MANIFEST, "settings": {"seed": 2, "ks": (2, 4)}}, "settings seed was 1 and is 2"),
        ({"model": MANIFEST["model"]}, "settings was .* and is None"),
    ],
)
def test_another_run_is_refused_with_what_changed(path, changed, message):
    begin(path, n=1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        begin(path, changed)
    assert path.read_bytes() == before
    begin(path)


def test_a_line_damaged_in_the_middle_is_named(path):
    begin(path, n=2)
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(lines[0] + b"{nonsense}\n" + lines[2])
    with pytest.raises(ValueError, match="line 2 is damaged"):
        begin(path)


def test_nothing_differs_between_equals():
    assert differences(json.loads(json.dumps(MANIFEST)), json.loads(json.dumps(MANIFEST))) == []


ANSWER = {"text": "a dog", "prediction": "dog", "correct": True}
ANSWERS = {"items": [{"id": "a", "prompt": "?", "runs": {"base": ANSWER}}], "sums": {}}
HEARD = {"id": "a", **ANSWER, "mass": [[0.5, 0.25]]}
OTHER_FORMS = [
    [],
    "text",
    {},
    {"phase": "answers", "batch": 0},
    {"phase": "answers", "batch": True, **ANSWERS},
    {"phase": ["answers"], "batch": 0, **ANSWERS},
    {"phase": "unknown", "batch": 0, **ANSWERS},
    {"phase": "listening", "batch": 0, **ANSWERS},
    {"phase": "listening", "batch": 0, "items": [{**HEARD, "mass": [[0.5, None]]}], "sums": {}},
    {"phase": "listening", "batch": 0, "items": [{**HEARD, "mass": [[0.5], [0.5, 0.5]]}], "sums": {}},
    {"phase": "listening", "batch": 0, "items": [{**HEARD, "mass": [["0.5"]]}], "sums": {}},
    {"phase": "strength", "batch": 0, "items": [{"id": "a", "correct": [{}]}], "sums": {}},
    {"phase": "answers", "batch": 0, "items": 3, "sums": {}},
    {"phase": "answers", "batch": 0, "items": [3], "sums": {}},
    {"phase": "answers", "batch": 0, "items": [{"id": "a", "runs": [1]}], "sums": {}},
    {"phase": "answers", "batch": 0, "items": [{"id": "a", "prompt": "?", "runs": {"b": 1}}], "sums": {}},
    {"phase": "answers", "batch": 0, "items": [], "sums": []},
    {"phase": "answers", "batch": 0, "items": [], "sums": {"k": "not base64"}},
    {"phase": "answers", "batch": 0, "items": [], "sums": {"k": "AAA="}},
]  # fmt: skip


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_line_of_valid_json_that_is_no_batch_is_damaged(path, form):
    lines = [MANIFEST, form]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        Journal(path, MANIFEST, check_recorded)


def test_a_record_of_the_right_form_is_taken(path):
    begin(path, n=0)
    line = {"phase": "listening", "batch": 0, "items": [HEARD], "sums": {}}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    journal = Journal(path, MANIFEST, check_recorded)
    journal.close()
    assert journal.done["listening", 0]["items"] == [HEARD]


def test_a_line_nested_too_deeply_is_damaged(path):
    begin(path, n=0)
    with path.open("a") as file:
        file.write("[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(ValueError, match="line 2 is damaged"):
        begin(path)


def test_a_first_line_that_is_no_dictionary_is_damaged(path):
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1 is damaged"):
        begin(path)


def test_a_batch_that_comes_twice_is_damage(path):
    begin(path, n=1)
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines(True)[1])
    with pytest.raises(ValueError, match="line 3 is damaged"):
        begin(path)


def test_a_whole_line_is_taken(path):
    lines = [MANIFEST, {"phase": "answers", "batch": 0, **ANSWERS}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    journal = Journal(path, MANIFEST, check_recorded)
    journal.close()
    assert journal.done == {("answers", 0): ANSWERS}


def another_process_may_write(path):
    child = os.fork()
    if child == 0:
        try:
            Journal(path, MANIFEST)
        except BlockingIOError as error:
            os._exit(1 if "another process is writing" in str(error) else 2)
        finally:
            os._exit(0)
    return {0: True, 1: False}[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


def test_a_second_journal_of_one_file_is_refused_and_takes_no_lock_away(path):
    first = Journal(path, MANIFEST)
    with pytest.raises(BlockingIOError, match="this process is writing"):
        Journal(path, MANIFEST)
    path.read_bytes()  # whoever reads it takes no lock away either
    assert not another_process_may_write(path)
    first.close()
    assert another_process_may_write(path)
