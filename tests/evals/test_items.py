"""Items: what is refused, which are chosen, and on which side of the split they are."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from lens_audio.data.batches import as_clip, seconds
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.evals.items import is_calibration, missing_audio, select, with_recordings
from lens_audio.fingerprint import of_items
from lens_audio.inputs import load_audio


def item(name="a", **changes):
    plain = AudioQAItem(
        name, "What?", ("dog", "cat"), "dog", ([0.0] * 1600, 16000), {"task": "sound"}
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "question is empty"),
        ({"question": "x" * 10_000_000}, "10000000 letters"),
        ({"choices": ("dog", "x" * 30_000)}, "30000 letters"),
        ({"question": "What\ud800?"}, "half a character"),
        ({"choices": ("dog", "dog")}, "two different choices"),
        ({"choices": ("dog", "")}, "none of them empty"),
        ({"answer": "cow"}, "'cow' is none of its choices"),
    ],
)
def test_an_item_that_cannot_be_asked_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_items([item("good"), item("bad", **changes)], "some.json")
    assert "item 'bad'" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_ids_that_come_twice_are_refused():
    with pytest.raises(ValueError, match="'a' is given more than once"):
        check_items([item("a"), item("b"), item("a")], "some.json")


def test_answers_are_withheld_of_all_items_or_of_none():
    check_items([item("a", answer=None), item("b", answer=None)], "some.json")
    with pytest.raises(ValueError, match="'b' has no answer"):
        check_items([item("a"), item("b", answer=None)], "some.json")


def test_only_a_few_of_many_problems_are_named():
    with pytest.raises(ValueError, match="and 15 more"):
        check_items([item(str(n), question="") for n in range(20)], "some.json")


def test_items_are_chosen_by_fact():
    items = [item(str(n), facts={"task": "music" if n % 2 else "sound"}) for n in range(6)]
    assert [i.id for i in select(items, task="music")] == ["1", "3", "5"]
    assert len(select(items, task=None)) == 6
    with pytest.raises(ValueError, match="no item has task 'speech'; there are music, sound"):
        select(items, task="speech")


@given(st.text(), st.integers(0, 2**32), st.floats(0, 1))
def test_an_item_stays_on_the_calibration_side_as_the_share_grows(name, seed, share):
    assert is_calibration(name, 1.0, seed)
    assert not is_calibration(name, 0.0, seed)
    assert is_calibration(name, share, seed) <= is_calibration(name, min(1.0, share + 0.1), seed)


def test_the_split_has_about_the_share_that_was_asked_for():
    chosen = sum(is_calibration(str(n), 0.3, 7) for n in range(4000))
    assert 1100 < chosen < 1300
    assert [is_calibration(str(n), 0.3, 7) for n in range(50)] != [
        is_calibration(str(n), 0.3, 8) for n in range(50)
    ]


def test_the_fingerprint_tells_questions_answers_and_recordings_apart():
    def match(prediction, answer, choices):
        return True

    changes = [
        {}, {"question": "Who?"}, {"answer": "cat"}, {"facts": {"task": "music"}},
        {"audio": ([0.1] * 1600, 16000)},
    ]  # fmt: skip
    assert len({of_items([item(**change)], match) for change in changes}) == len(changes)
    assert of_items([item()], match) == of_items([item()], match)


def test_a_recording_may_be_any_clip_that_says_its_rate(tmp_path):
    path, samples = tmp_path / "a.wav", np.zeros(3200, dtype=np.float32)
    soundfile.write(path, samples, 16000)
    data = path.read_bytes()
    stored = SimpleNamespace(read=lambda: data)
    held = [
        path, str(path), data, {"bytes": data, "path": "a.wav"}, {"path": str(path)},
        (samples, 16000), {"array": samples, "sampling_rate": 16000}, stored,
    ]  # fmt: skip
    for audio in [*held, io.BytesIO(data)]:
        one = item(audio=audio)
        for _ in range(2):  # a file may have been read before
            assert len(load_audio(as_clip(one.audio))) == 3200
            assert seconds(one) == 0.2
            assert of_items([one], len) == of_items([item(audio=audio)], len)
    assert of_items([item(audio=data)], len) != of_items([item(audio=data + b"0")], len)
    assert missing_audio([item(audio={"bytes": None, "path": "gone.wav"})])


def test_missing_recordings_are_found(tmp_path):
    (tmp_path / "here.wav").write_bytes(b"")
    items = [item("a", audio=tmp_path / "here.wav"), item("b", audio=tmp_path / "gone.wav")]
    assert [i.id for i in missing_audio(items)] == ["b"]
    assert [i.id for i in with_recordings(items)] == ["a"]
    with pytest.raises(ValueError, match="none of the recordings was found"):
        with_recordings(items[1:])
