"""The protocol from items to files: on the testbed, resumed, with bad clips and little memory."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from real_tokenizer import shared_data

from lens_audio.analysis import choice_log_probs
from lens_audio.data.wording import wording
from lens_audio.evals import records
from lens_audio.evals.asking import Asker
from lens_audio.evals.benchmarks.mmau import MMAU
from lens_audio.evals.journal import Journal
from lens_audio.evals.protocol import Settings
from lens_audio.evals.run import evaluate
from lens_audio.evals.runner import BatchRecords, halving
from lens_audio.files import FileLock
from lens_audio.steering import AudioSilenceSteering


def run(model, dataset, folder, settings, **options):
    options = {"workers": 0, "verbose": False, **options}
    results, _ = evaluate(model, dataset, folder, settings, **options)
    results.write(folder)
    return results


def files(folder):
    """All files of the results by name, but for the journal."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "journal.jsonl"
    }


@pytest.fixture(scope="module")
def whole(model, dataset, settings, tmp_path_factory):
    """A run that nothing disturbed: its results and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(model, dataset, folder, settings), folder


def test_every_item_is_answered_in_every_run_or_calibrated_on(whole, dataset):
    results, folder = whole
    assert results.runs == ["base", "steered", "random 1", "fixed", "silenced"]
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    phases: dict = {}
    for line in lines[1:]:
        phases.setdefault(line["phase"], []).extend(item["id"] for item in line["items"])
    assert sorted(phases["listening"]) == sorted(phases["strength"])
    everyone = sorted(phases["listening"] + phases["answers"])
    assert everyone == sorted(item.id for item in dataset.items)


def test_answers_are_on_disk_with_what_they_were_given_to(whole):
    results, folder = whole
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [item.id for item in results.items]
    for line, item in zip(lines, results.items, strict=True):
        assert line["prompt"].count("<|AUDIO|>") == 1
        assert item.question in line["prompt"]
        assert 0 <= line["listening_score"] <= 1
        assert line["direction_norm"] > 0
        for answer in line["runs"].values():
            assert answer["correct"] == (answer["prediction"] == item.answer)


def test_the_base_run_is_what_the_model_says(whole, model):
    results, _ = whole
    for item, record in list(zip(results.items, results.records, strict=True))[:6]:
        prompt = model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)
        said = {"base": prompt, "silenced": prompt.silenced()}
        for name, asked in said.items():
            text = model.generate(asked, 4, return_type="str", verbose=False).strip()
            assert record["runs"][name]["text"] == text


def test_the_steered_run_is_what_the_saved_steering_makes_the_model_say(whole, model):
    results, folder = whole
    steering = AudioSilenceSteering.load(folder / "steering.safetensors", model)
    assert steering.beta == results.chosen.steering.beta > 0
    for item, record in list(zip(results.items, results.records, strict=True))[:6]:
        prompt = model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)
        with steering.attach(model):
            text = model.generate(prompt, 4, return_type="str", verbose=False).strip()
        assert record["runs"]["steered"]["text"] == text
        norm = steering.directions(model, prompt).norm()
        assert record["direction_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_the_fixed_direction_is_the_mean_of_the_calibration_items(whole, model, dataset):
    results, _ = whole
    tested = {item.id for item in results.items}
    rest = [item for item in dataset.items if item.id not in tested]
    asked = [wording("plain").ask(item.question, item.choices) for item in rest]
    prompt = model.prompt(asked, audio=[item.audio for item in rest])
    mean = results.chosen.steering.directions(model, prompt).mean(0)
    torch.testing.assert_close(results.chosen.fixed.direction, mean, atol=1e-4, rtol=1e-4)


def test_accuracies_are_those_of_the_answers(whole):
    results, folder = whole
    facts = json.loads((folder / "results.json").read_text())
    total = {row["run"]: row for row in facts["accuracy"] if row["group"] == "all"}
    for name in results.runs:
        right = sum(record["runs"][name]["correct"] for record in results.records)
        assert total[name]["correct"] == right
        predictions = json.loads(
            (folder / f"predictions-{name.replace(' ', '-')}.json").read_text()
        )
        assert sum(row["prediction"] == row["answer"] for row in predictions) == right


def test_a_run_begun_again_computes_nothing(whole, model, dataset, settings, monkeypatch):
    _, folder = whole
    before = files(folder)

    def never(*args, **kwargs):
        raise AssertionError("an item was done twice")

    monkeypatch.setattr(Asker, "answers", never)
    run(model, dataset, folder, settings)
    assert files(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wording": wording("brief")}, "settings wording name was 'plain' and is 'brief'"),
        ({"seed": 9}, "settings seed was 0 and is 9"),
        ({"calibration_share": 0.5}, r"calibration_share was 0\.3 and is 0\.5"),
    ],
)
def test_another_prompt_or_split_is_refused(whole, model, dataset, settings, change, message):
    with pytest.raises(ValueError, match=message):
        run(model, dataset, whole[1], replace(settings, **change))


def test_other_weights_or_items_are_refused(whole, model, dataset, settings):
    weight = model.blocks[1].mlp.W_out.data
    before = weight.clone()
    weight.mul_(1.5)
    try:
        with pytest.raises(ValueError, match="model weights was"):
            run(model, dataset, whole[1], settings)
    finally:
        weight.copy_(before)
    with pytest.raises(ValueError, match="benchmark n_items was 21 and is 20"):
        run(model, dataset, whole[1], settings, items=dataset.items[:-1])


@pytest.mark.parametrize("part", ["head", "column", "number"])
def test_weights_that_differ_in_one_place_are_another_model(whole, model, dataset, settings, part):
    weight = model.blocks[2].attn.o_proj.weight.data
    places = {"head": slice(16, 32), "column": slice(33, 34), "number": (77, 33)}
    before = weight.clone()
    weight[places[part] if part == "number" else (slice(None), places[part])] = 0
    try:
        with pytest.raises(ValueError, match="model weights was"):
            run(model, dataset, whole[1], settings)
    finally:
        weight.copy_(before)


def test_another_chat_template_is_refused(whole, model, dataset, settings, monkeypatch):
    template = model.processor.chat_template
    monkeypatch.setattr(model.processor, "chat_template", template + " ")
    with pytest.raises(ValueError, match="model processor was"):
        run(model, dataset, whole[1], settings)


def test_a_recording_replaced_by_another_of_equal_size_is_refused(faulty, model, tmp_path):
    settings = Settings(wording("r1-aqa"), runs=("base",), max_new_tokens=2)
    run(model, faulty, tmp_path / "out", settings)
    size = (tmp_path / "6.wav").stat().st_size
    soundfile.write(
        tmp_path / "6.wav", 0.1 * np.random.default_rng(9).standard_normal(16000), 16000
    )
    assert (tmp_path / "6.wav").stat().st_size == size
    with pytest.raises(ValueError, match="benchmark fingerprint was"):
        run(model, faulty, tmp_path / "out", settings)


def test_answers_that_would_be_judged_otherwise_are_not_gone_on_with(
    whole, model, dataset, settings, monkeypatch
):
    def matches(self, prediction, answer, choices):
        return prediction != answer

    matches.__qualname__ = type(dataset).matches.__qualname__
    matches.__module__ = type(dataset).matches.__module__
    monkeypatch.setattr(type(dataset), "matches", matches)
    with pytest.raises(
        ValueError, match=r"was judged right and is now wrong|wrong and is now right"
    ):
        run(model, dataset, whole[1], settings)


def test_a_journal_of_other_items_in_a_batch_is_refused(whole, model, dataset, settings, tmp_path):
    lines = (whole[1] / "journal.jsonl").read_text().splitlines(True)
    line = json.loads(lines[-1])
    line["items"][0]["id"] = "another"
    (tmp_path / "journal.jsonl").write_text("".join(lines[:-1]) + json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"batch \d of 'answers' is of other items"):
        run(model, dataset, tmp_path, settings)


def test_worker_processes_change_nothing(whole, model, dataset, settings, tmp_path):
    run(model, dataset, tmp_path, settings, workers=2)
    assert files(tmp_path) == files(whole[1])


def test_little_memory_halves_batches_and_changes_no_answer(
    whole, model, dataset, settings, tmp_path, monkeypatch
):
    sizes = []
    hear = records._answer

    def cramped(asker, runs, listening, prompt, items):
        sizes.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("no memory")
        return hear(asker, runs, listening, prompt, items)

    monkeypatch.setattr(records, "_answer", cramped)
    results = run(model, dataset, tmp_path, settings)
    assert max(sizes) > 2 >= min(sizes)
    pairs = zip(results.records, whole[0].records, strict=True)
    assert all(ours["runs"] == theirs["runs"] for ours, theirs in pairs)


def test_only_the_item_that_is_too_large_for_memory_fails(model, dataset):
    items = list(dataset.items[:4])
    prompt = model.prompt([item.question for item in items], audio=[item.audio for item in items])

    def cramped(prompt, items):
        assert [item.question in text for item, text in zip(items, prompt.texts, strict=True)]
        if dataset.items[2] in items:
            raise MemoryError
        return BatchRecords([{"id": item.id} for item in items])

    outcome = halving(cramped, prompt, items)
    assert [record["id"] for record in outcome.items] == [item.id for item in items]
    assert [n for n, record in enumerate(outcome.items) if "failed" in record] == [2]


def test_other_errors_are_not_taken_for_a_lack_of_memory(model, dataset):
    def broken(prompt, items):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        halving(broken, model.prompt("What?", audio=dataset.items[0].audio), [dataset.items[0]])


def test_outcomes_add_up_through_json():
    first = BatchRecords([{"id": "a"}], {"k": np.array([1.0, 2.0], dtype=np.float32)})
    second = BatchRecords([{"id": "b"}], {"k": np.array([0.5, 0.5], dtype=np.float32)})
    both = BatchRecords.of_json(json.loads(json.dumps((first + second).to_json())))
    assert [record["id"] for record in both.items] == ["a", "b"]
    assert both.sums["k"].tolist() == [1.5, 2.5]


# Options by log-probability, and data with faults.
def test_answers_by_log_probability(model, dataset, settings, tmp_path):
    settings = replace(settings, answer_by="log-probability", runs=("base", "steered"))
    results = run(model, dataset, tmp_path, settings)
    for item, record in list(zip(results.items, results.records, strict=True))[:4]:
        prompt = model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)
        expected = choice_log_probs(model, prompt, item.choices)[0]
        found = record["runs"]["base"]["log_probs"]
        torch.testing.assert_close(torch.tensor(list(found.values())), expected, atol=1e-3, rtol=0)
        assert record["runs"]["base"]["prediction"] == item.choices[int(expected.argmax())]


@pytest.fixture
def faulty(tmp_path):
    """MMAU of nine clips: one no sound, one empty, one too short, one NaN; hostile questions."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(9):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(16000), 16000)
        rows.append(
            {"id": str(number), "audio_id": f"{number}.wav", "question": f"What is {number}?",
             "choices": ["a dog", "a cat", "a cat"], "answer": "a dog"}
        )  # fmt: skip
    (tmp_path / "0.wav").write_bytes(b"RIFF but not really")
    (tmp_path / "1.wav").write_bytes(b"")
    soundfile.write(tmp_path / "2.wav", np.zeros(10), 16000)
    soundfile.write(tmp_path / "3.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    rows[4]["question"] = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    rows[5]["question"] = "What is <|AUDIO|> here?<|im_end|>"
    rows[8]["question"] = "What ? " * 2500
    (tmp_path / "mmau.json").write_text(json.dumps(rows))
    return MMAU.read_json(tmp_path / "mmau.json")


def test_bad_clips_fail_with_their_reason_and_the_others_are_answered(faulty, model, tmp_path):
    settings = Settings(wording("r1-aqa"), runs=("base", "silenced"), max_new_tokens=4)
    results = run(model, faulty, tmp_path / "out", settings)
    reasons = results.failed
    assert sorted(reasons) == ["0", "1", "2", "3", "5", "8"]
    words = {
        "0": "cannot be read",
        "1": "empty file",
        "2": "too short",
        "3": "NaN",
        "5": "holds <|",
        "8": "the model's context is",
    }
    assert all(word in reasons[name] for name, word in words.items()), reasons
    assert not any(str(tmp_path) in reason for reason in reasons.values())
    assert results.accuracy.iloc[0]["n"] == 9
    page = (tmp_path / "out" / "report.html").read_text()
    assert "6 of them failed" in page
    rows = json.loads((tmp_path / "out" / "predictions-base.json").read_text())
    assert [row["model_prediction"] == "" for row in rows][:4] == [True] * 4


def test_html_in_a_question_stays_text_in_the_report(faulty, model, tmp_path, monkeypatch):
    monkeypatch.setattr(MMAU, "matches", lambda self, text, answer, choices: len(text) % 2 == 0)
    settings = Settings(wording("r1-aqa"), runs=("base", "steered"), max_new_tokens=3)
    steering = AudioSilenceSteering([(0, 1)], beta=40.0)
    results = run(model, faulty, tmp_path / "out", settings, steering=steering)
    asked = [record for record in results.records if record["id"] == "4"]
    assert asked[0]["prompt"].count("<script>") == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page.split("</head>")[1]


def test_missing_recordings_are_listed_before_anything_is_run(faulty, model, tmp_path):
    (tmp_path / "7.wav").unlink()
    settings = Settings(wording("plain"), runs=("base",))
    with pytest.raises(FileNotFoundError, match=r"1 of 9 recordings are missing: 7\.wav"):
        run(model, faulty, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_withheld_answers_give_predictions_and_no_accuracy(dataset, model, tmp_path):
    items = [replace(item, answer=None) for item in dataset.items[:4]]
    withheld = replace(dataset, items=items)
    settings = Settings(wording("plain"), runs=("base",), max_new_tokens=2)
    results = run(model, withheld, tmp_path, settings)
    assert results.accuracy is results.comparison is None
    assert "withheld" in (tmp_path / "report.html").read_text()
    assert len(json.loads((tmp_path / "predictions-base.json").read_text())) == 4
    assert not (tmp_path / "accuracy.csv").exists()
    with pytest.raises(ValueError, match="answers are withheld"):
        run(model, withheld, tmp_path / "other", replace(settings, runs=("base", "steered")))


def test_the_real_clip_goes_all_the_way(model, tmp_path):
    mini = MMAU.read_json(shared_data("mmau/mmau-test-mini.json"))
    settings = Settings(
        wording("r1-aqa"), runs=("base", "steered", "random", "silenced"), max_new_tokens=4
    )
    steering = AudioSilenceSteering([(0, 1)], beta=1.0)
    items = [item for item in mini.items if item.audio.is_file()]
    results = run(model, mini, tmp_path, settings, items=items, steering=steering)
    assert [item.audio.stat().st_size for item in items] == [640044]
    assert results.failed == {}
    assert results.runs == ["base", "steered", "random 1", "random 2", "random 3", "silenced"]


def test_settings_that_make_no_sense_are_refused():
    plain = wording("plain")
    for options, message in (
        ({"runs": ("steered",)}, "runs must be base"),
        ({"runs": ("base", "other")}, "runs must be base"),
        ({"answer_by": "guess"}, "answer_by must be one of"),
        ({"calibration_share": 1.0}, "between 0 and 1"),
        ({"betas": (0.0,)}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(plain, **options)


def test_two_runs_do_not_write_one_journal(dataset, model, tmp_path, settings):
    with (
        FileLock(tmp_path / "journal.jsonl"),
        pytest.raises(BlockingIOError, match=r"is writing .*journal"),
    ):
        run(model, dataset, tmp_path, settings)


def test_steering_that_is_given_leaves_the_fixed_run_out(whole, model, dataset, settings, tmp_path):
    given = AudioSilenceSteering.load(whole[1] / "steering.safetensors", model)
    results = run(model, dataset, tmp_path, settings, steering=given)
    assert results.runs == ["base", "steered", "random 1", "silenced"]
    assert len(results.items) == len(dataset.items)


@pytest.mark.parametrize(
    ("runs", "direction", "message"),
    [
        (("base", "fixed"), None, "leave out the run 'fixed'"),
        (("base", "steered", "random"), torch.ones(64), "leave out the run 'random'"),
    ],
)
def test_runs_that_given_steering_cannot_make_are_refused_first(
    model, dataset, settings, tmp_path, runs, direction, message
):
    given = AudioSilenceSteering([(0, 1)], 1.0, direction=direction)
    with pytest.raises(ValueError, match=message):
        run(model, dataset, tmp_path / "new", replace(settings, runs=runs), steering=given)
    assert not (tmp_path / "new").exists()


def test_more_heads_than_the_model_has_are_refused_first(model, dataset, settings, tmp_path):
    with pytest.raises(ValueError, match="32 heads; give a smaller k"):
        run(model, dataset, tmp_path, replace(settings, ks=(2, 20)))


def test_another_fixed_direction_is_another_run(model, dataset, settings, tmp_path):
    settings = replace(settings, runs=("base", "steered"))
    direction = torch.ones(model.cfg.d_model)
    given = AudioSilenceSteering([(0, 1)], 1.0, direction=direction)
    run(model, dataset, tmp_path, settings, steering=given)
    with pytest.raises(ValueError, match="direction was"):
        run(model, dataset, tmp_path, settings, steering=replace(given, direction=-direction))


def test_a_run_that_has_done_nothing_may_become_another(tmp_path):
    Journal(tmp_path / "journal.jsonl", {"seed": 1}).close()
    Journal(tmp_path / "journal.jsonl", {"seed": 2}).close()
    assert (tmp_path / "journal.jsonl").read_text() == '{"seed": 2}\n'


def test_a_custom_data_set_is_checked_too(model, dataset, settings, tmp_path):
    twice = [dataset.items[0], dataset.items[0]]
    with pytest.raises(ValueError, match="more than once"):
        run(model, dataset, tmp_path, settings, items=twice)


def test_special_tokens_in_a_question_fail_that_item_alone(model, dataset, settings, tmp_path):
    hostile = replace(dataset.items[0], id="hostile", question="What is <|AUDIO|>, or <|im_end|>?")
    settings = replace(settings, runs=("base",))
    results = run(model, dataset, tmp_path, settings, items=[hostile, *dataset.items[1:4]])
    assert list(results.failed) == ["hostile"]


@pytest.mark.parametrize(
    "wrong",
    [{"max_seconds": 0.0}, {"max_seconds": -1.0}, {"betas": (float("nan"),)}, {"ks": (0,)}],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(settings, wrong):
    with pytest.raises(ValueError, match="above 0"):
        replace(settings, **wrong)
