"""Items: deterministic, well formed, paired across caption conditions."""

import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.data.items import check_items
from lens_audio.testbed.demo import demo_clip, demo_item
from lens_audio.testbed.items import (
    TRAINING_STREAM,
    make_item,
    make_items,
    with_article,
)
from lens_audio.testbed.sounds import CLASSES

seeds = st.integers(0, 2**32 - 1)
captions = st.sampled_from(["none", "true", "false"])
kinds = st.sampled_from(["choice", "yes_no", "mixed"])


@settings(max_examples=60, deadline=None)
@given(seed=seeds, caption=captions, kind=kinds)
def test_item_is_well_formed(seed: int, caption: str, kind: str) -> None:
    (item,) = make_items(1, seed, caption, kind)
    assert item.answer in item.choices
    assert len(set(item.choices)) == len(item.choices) == (2 if item.kind == "yes_no" else 4)
    ending = f"Please choose the answer from the following options: {item.choices}."
    assert item.question.endswith(ending)
    assert 0 < item.onset < item.offset < len(item.waveform) / item.sampling_rate
    if caption == "none":
        assert item.captioned is None
        assert not item.firm
    elif caption == "true":
        assert item.captioned == item.answer
    else:
        assert item.captioned in item.choices
        assert item.captioned != item.answer


@settings(max_examples=20, deadline=None)
@given(seed=seeds, kind=kinds)
def test_conditions_differ_in_the_caption_alone(seed: int, kind: str) -> None:
    plain, true, false = (make_items(1, seed, c, kind)[0] for c in ("none", "true", "false"))
    for captioned in (true, false):
        assert np.array_equal(captioned.waveform, plain.waveform)
        assert captioned.choices == plain.choices
        assert captioned.answer == plain.answer
        assert captioned.question.endswith(plain.question)
        assert captioned.question != plain.question


def test_choice_answer_is_the_sound_and_false_caption_names_a_wrong_choice() -> None:
    for item in make_items(30, 5, "false"):
        assert item.answer == item.category
        assert with_article(str(item.captioned)) in item.question.split(".")[0]


def test_items_are_determined_by_seed_and_index() -> None:
    few, many = make_items(3, 9, "true"), make_items(5, 9, "true")
    for a, b in zip(few, many, strict=False):
        assert a.id == b.id
        assert a.question == b.question
        assert np.array_equal(a.waveform, b.waveform)
    assert make_items(1, 10, "true")[0].question != few[0].question or not np.array_equal(
        make_items(1, 10)[0].waveform, few[0].waveform
    )


def test_training_and_held_out_streams_differ_for_the_same_seed() -> None:
    (held_out,) = make_items(1, 4)
    trained = make_item(0, 4, "none", "choice", "event", TRAINING_STREAM)
    assert not np.array_equal(held_out.waveform[:1000], trained.waveform[:1000])


def test_yes_no_answers_are_balanced_and_classes_even() -> None:
    items = make_items(200, 1, kind="yes_no")
    assert 70 < sum(item.answer == "yes" for item in items) < 130
    assert {item.category for item in items} == set(CLASSES)


def test_firm_and_plain_captions_both_occur() -> None:
    firm = [item.firm for item in make_items(60, 2, "false")]
    assert 15 < sum(firm) < 45


def test_silent_items_keep_length_and_question() -> None:
    (event,), (silent,) = make_items(1, 6, "true"), make_items(1, 6, "true", audio="silence")
    assert silent.waveform.shape == event.waveform.shape
    assert not silent.waveform.any()
    assert silent.category == "silence"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1, "seed": 0}, "0 or more"),
        ({"n": 1, "seed": 0, "caption": "wrong"}, "caption='wrong'.*'false'"),
        ({"n": 1, "seed": 0, "kind": "open"}, "kind='open'.*'mixed'"),
        ({"n": 1, "seed": 0, "audio": "noise"}, "audio='noise'.*'silence'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(make_items)(**arguments)  # without the tests' own type checks


def test_demo_item_is_the_bundled_held_out_clip() -> None:
    item = demo_item()
    assert demo_clip().exists()
    assert item.caption == "none"
    assert item.answer in item.choices
    assert item.waveform.dtype == np.float32
    assert item.sampling_rate == 16_000
    assert item.offset < len(item.waveform) / item.sampling_rate


def test_an_item_can_be_asked_as_it_is_and_over_other_audio() -> None:
    (item,) = make_items(1, 6, "false")
    check_items([item], needs=("audio", "answer"))
    assert item.condition == "conflict"
    assert item.audio == (item.waveform, item.sampling_rate)
    silent = replace(item, audio=None)
    assert (silent.audio, silent.id, silent.condition) == (None, item.id, "conflict")
    with pytest.raises(ValueError, match="it has no recording"):
        check_items([silent], needs=("audio",))


def test_importing_the_package_part_is_light() -> None:
    code = (
        "import sys, importlib.util as u, pathlib\n"
        f"path = {str(demo_clip().parents[1] / '__init__.py')!r}\n"
        "spec = u.spec_from_file_location('testbed', path)\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert module.checkpoint_dir().name == 'listen'\n"
        "assert 'transformers' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
