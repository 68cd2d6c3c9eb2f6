"""What counts as right, and what is reported, on cases worked out by hand."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from published_rows import ALME, FIRST, LATER, MMAR, RULISTENING

from lens_audio.data.items import AudioQAItem
from lens_audio.data.wording import wording
from lens_audio.evals import Asking, benchmarks, evaluate
from lens_audio.evals.benchmarks import alme, mmau, object_hallucination, rulistening
from lens_audio.evals.benchmarks.mmar import MMAR as Mmar
from lens_audio.evals.metrics import Row, metrics_of, unit_of

ABCD = ("flute", "bass flute", "oboe", "harp")


def read(reader, folder, rows, **options):
    (folder / "questions.json").write_text(json.dumps(rows))
    return reader(folder / "questions.json", **options)


def rows_of(dataset, predictions):
    """A row for each item, judged by the benchmark itself."""
    return [
        Row(item, said, dataset.matches(said, item.answer, item.choices))
        for item, said in zip(dataset.items, predictions, strict=True)
    ]


def reported(dataset, predictions):
    return {name: r.value for name, r in metrics_of(dataset, rows_of(dataset, predictions)).items()}


# Asked of a model
@pytest.mark.parametrize("name", ["rulistening", "alme", "object-hallucination"])
def test_a_model_is_asked_and_the_results_are_written(tmp_path, model, name):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    for file in ("a.mp3", "a.wav"):
        soundfile.write(tmp_path / file, noise, 16000, format="WAV")
    row = {"rulistening": {"id": "a", **RULISTENING}, "alme": ALME, "object-hallucination": FIRST}
    (tmp_path / "questions.json").write_text(json.dumps([row[name]]))
    dataset = benchmarks.read(name, tmp_path / "questions.json")
    asking = Asking(wording=wording(dataset.prompt), max_new_tokens=2)
    results, _ = evaluate(model, dataset, tmp_path, asking, runs={}, workers=0, verbose=False)
    assert results.failed == {}
    results.write(tmp_path)
    written = json.loads((tmp_path / "predictions-base.json").read_text())
    assert len(written) == len(dataset.items)


# MMAR
def test_mmar_is_scored_as_mmau(tmp_path):
    found = read(Mmar.read, tmp_path, [MMAR])
    (item,) = found.items
    for said in ("a glass", "It is a glass.", "a glass, not a plate", "glass", ""):
        assert found.matches(said, item.answer, item.choices) == mmau.matches(
            said, item.answer, item.choices
        )
    assert found.official_row(item, "a plate")["answer_prediction"] == "a plate"
    assert reported(found, ["a glass"]) == {"accuracy": 1}


# RUListening
@pytest.mark.parametrize(
    ("response", "choice"),
    [
        ("[[C]]", "oboe"),
        ("First [[A]], but no: [[D]].", "harp"),
        ("[[A]] though the answer is B", "flute"),
        ("[[E]]", ""),  # a letter that no choice has
        ("[[a]] harp", "harp"),  # brackets want a capital: what else is said counts
        ("The answer is B, I select c", "oboe"),
        ("Option C or (B)", "bass flute"),  # the first letter of these forms
        ("(D)", "harp"),
        ("I hear a BASS FLUTE.", "flute"),  # the first choice that is contained
        ("bass flute", "bass flute"),  # a choice and nothing else
        ("Oboe or harp", "oboe"),
        ("a drum", ""),
        ("", ""),
    ],
)
def test_the_choice_that_a_response_of_rulistening_names(response, choice):
    assert rulistening.chosen(response, ABCD) == choice


@given(st.sampled_from(range(4)), st.text(alphabet="abc [](). ", max_size=10))
def test_the_last_letter_in_double_brackets_is_the_answer(place, before):
    assert rulistening.chosen(f"{before}[[{'ABCD'[place]}]]", ABCD) == ABCD[place]


def test_rulistening_by_asking_and_by_vote(tmp_path):
    rows = {str(n): RULISTENING for n in range(3)}
    found = read(rulistening.RUListening.read, tmp_path, rows)
    said = [
        "oboe", "oboe", "viola", "",  # two votes of three: right
        "harp", "oboe", "oboe", "harp",  # of two choices named equally often, the first
        "", "", "", "no idea",  # nothing to count
    ]  # fmt: skip
    result = reported(found, said)
    assert result["accuracy"] == 4 / 12
    assert result["accuracy by vote"] == pytest.approx(1 / 3)
    units = [unit_of(found, item) for item in found.items]
    assert units == ["0"] * 4 + ["1"] * 4 + ["2"] * 4


def test_an_asking_is_written_under_the_keys_of_the_script(tmp_path):
    found = read(rulistening.RUListening.read, tmp_path, {"7": RULISTENING})
    item = found.items[1]
    letter = "ABCD"[item.choices.index("oboe")]
    row = found.official_row(item, f"[[{letter}]]")
    assert (row["question_id"], row["excluded_distractor"]) == ("7", "viola")
    assert (row["extracted_answer_letter"], row["extracted_answer_text"]) == (letter, "oboe")
    assert row["is_correct"]
    assert row["letter_mapping"] == dict(zip("ABCD", item.choices, strict=True))


# ALME
@pytest.mark.parametrize(
    ("response", "choices", "choice"),
    [
        ('{"answer": "three", "confidence": 0.9}', ("three", "four"), "three"),
        ('{"answer": "Three."}', ("three", "four"), "three"),
        ("{'answer': 'four'}", ("three", "four"), "four"),
        ('{"answer": "four", "rationale": "not thr', ("three", "four"), "four"),
        ('{"answer": "choice four"}', ("three", "four"), "four"),
        ('{"answer": "four dogs, not three"}', ("three", "four"), "four"),  # how it begins
        ('{"answer": "the thirty-three"}', ("three", "thirty-three"), "thirty-three"),
        ('{"answer": "\\u5927"}', ("小", "大"), "大"),
        ('{"answer": "don’t"}', ("do", "don't"), "don't"),
        ('{"answer": "very col"}', ("very cold", "hot"), "very cold"),  # most of a choice
        ('{"answer": "ver"}', ("very", "hot"), None),
        ('{"answer": null}', ("three", "four"), None),
        ('["three"]', ("three", "four"), "three"),
        ("It is four, surely", ("three", "four"), "four"),
        ("Sie ist GROSSE", ("große", "kleine"), "große"),
        ("ate amanha", ("até amanhã", "ontem"), "até amanhã"),
        ("大学 小", ("大", "小"), "小"),  # what stands alone, before a part of another word
        ("大学", ("小", "大"), "大"),
        ("是 大.", ("小", "大"), "大"),
        ("five", ("three", "four"), None),
        ("", ("three", "four"), None),
        ("three" + "!" * 3000, ("three", "four"), "three"),
        ("!" * 3000 + "three", ("three", "four"), None),  # beyond what is read
        ("(" * 1500, ("three", "four"), None),
    ],
)
def test_the_choice_that_a_response_of_alme_names(response, choices, choice):
    assert alme.chosen(response, choices) == choice


@given(st.text(max_size=60))
def test_any_response_to_alme_is_read(response):
    assert alme.chosen(response, ("three", "four", "大")) in ("three", "four", "大", None)


@given(st.permutations(["three", "four", "大", "très vieux"]))
def test_the_answer_that_is_asked_for_is_read_in_any_order(choices):
    for choice in choices:
        assert alme.chosen(json.dumps({"answer": choice}), choices) == choice


def stimuli(n):
    return [{**ALME, "stimulus_id": f"cv{number}"} for number in range(n)]


def test_the_text_dominance_ratio(tmp_path):
    found = read(alme.ALME.read, tmp_path, stimuli(5))
    of_text, lied = ["four", *["three"] * 4], ["four", "four", "three", "five", ""]
    said = [
        answer
        for text, conflict in zip(of_text, lied, strict=True)
        for answer in ("three", text, "three", conflict)
    ]
    # conflict trials: two follow the text, one the recording, two neither; the first stimulus is not
    # understood in text
    assert reported(found, said) == {
        "text-dominance ratio": pytest.approx(2 / 3),
        "text-dominance ratio, understood in text": 1 / 2,
        "accuracy, audio_only": 1,
        "accuracy, text_only": 4 / 5,
        "accuracy, audio_text_aligned": 1,
        "accuracy, audio_text_conflict": pytest.approx(1 / 5),
    }
    assert {unit_of(found, item) for item in found.items} == {f"cv{n}" for n in range(5)}


def test_the_ratio_on_what_is_understood_in_text(tmp_path):
    conditions = (alme.TEXT, alme.CONFLICT)
    found = read(alme.ALME.read, tmp_path, stimuli(3), conditions=conditions)
    result = reported(found, ["three", "three", "three", "four", "four", "four"])
    # the first two are understood, of which one follows the text; the third is not
    assert result["text-dominance ratio"] == pytest.approx(2 / 3)
    assert result["text-dominance ratio, understood in text"] == 1 / 2


def test_without_an_answered_conflict_the_ratio_is_undefined(tmp_path):
    found = read(alme.ALME.read, tmp_path, stimuli(1))
    ratio = metrics_of(found, rows_of(found, [*["three"] * 3, ""]))["text-dominance ratio"]
    interval = ratio.interval([unit_of(found, item) for item in found.items])
    assert interval.undefined == "no conflict trial was answered with either"


def test_a_trial_is_written_under_the_keys_of_the_script(tmp_path):
    *_, conflict = read(alme.ALME.read, tmp_path, stimuli(1)).items
    row = alme.ALME([conflict], "").official_row(conflict, '{"answer": "four"}')
    assert (row["stimulus_id"], row["condition"]) == ("cv0", "audio_text_conflict")
    assert (row["expected_answer"], row["model_answer"]) == ("three", "four")
    assert (row["correct"], row["followed_text"]) == (False, True)


# Object hallucination
@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Yes, there is rain.", "Yes"),
        ("yes", "Yes"),
        ("No.", "No"),
        ("no", None),  # only with a capital
        ("No, but yes", "Yes"),  # yes is looked for first
        ("Well, there is no sound of rain", "No"),
        ("The audio does not contain rain", "No"),
        ("It doesn't contain rain", "No"),
        ("The audio contains rain", "Yes"),
        ("I am unable to hear", "No"),
        ("It is not raining", "No"),
        ("I can't say", "No"),
        ("Noise of cars", "No"),  # letter for letter
        ("Rain", None),
        ("", None),
    ],
)
def test_yes_or_no_is_told_by_keywords(response, answer):
    assert object_hallucination.said(response) == answer


#           label, said
ANSWERED = [("Yes", "Yes"), ("Yes", "Yes"), ("Yes", "No"), ("Yes", "rain"),
            ("No", "No"), ("No", "No"), ("No", "No"), ("No", "Yes"), ("No", "rain"),
            ("No", "")]  # fmt: skip


def test_what_the_first_script_reports(tmp_path):
    rows = [{**FIRST, "entry_id": n, "label": label} for n, (label, _) in enumerate(ANSWERED)]
    found = read(object_hallucination.ObjectHallucination.read, tmp_path, rows)
    # "No" is right 3 times; 7 answers are not yes; "No" is the label of 6
    assert reported(found, [said for _, said in ANSWERED]) == {
        "accuracy": 5 / 10,
        "precision of no": pytest.approx(3 / 7),
        "recall of no": 3 / 6,
        "F1 of no": pytest.approx(2 * 3 / (7 + 6)),
        "yes-rate": 3 / 10,
    }


def test_what_the_later_script_reports(tmp_path):
    rows = [
        {**LATER, "entry_id": n, "ground_truth": label} for n, (label, _) in enumerate(ANSWERED)
    ]
    found = read(object_hallucination.ObjectHallucination.read, tmp_path, rows)
    # TN 3, FN 1, FP 1; three answers are neither
    assert reported(found, [said for _, said in ANSWERED]) == {
        "accuracy": 5 / 10,
        "precision of no": 3 / 4,
        "recall of no": 3 / 4,
        "F1 of no": pytest.approx(2 * 3 / (4 + 4)),
        "yes-rate": 3 / 10,
        "follows the instruction": 7 / 10,
    }


@given(
    st.lists(st.tuples(st.sampled_from(["Yes", "No"]), st.sampled_from(["Yes", "No"])), min_size=1)
)
def test_where_all_is_yes_or_no_both_scripts_agree(answered):
    datasets = [object_hallucination.ObjectHallucination([], v) for v in ("first", "later")]
    rows = [Row(asked(label), said, label == said) for label, said in answered]
    first, later = (
        {name: str(ratio.value) for name, ratio in metrics_of(dataset, rows).items()}
        for dataset in datasets
    )
    assert {**first, "follows the instruction": "1.0"} == later


def asked(label):
    return AudioQAItem("a", "Is it?", ("Yes", "No"), label)
