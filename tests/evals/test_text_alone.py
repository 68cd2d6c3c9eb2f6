"""Items without a recording, asked beside others that have one."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import lens_audio as la
from lens_audio import hooks
from lens_audio.analysis import choice_log_probs
from lens_audio.cli import app
from lens_audio.data.batches import plan, rows
from lens_audio.data.wording import wording
from lens_audio.evals import Asking, AudioQAItem, Settings, evaluate, over_noise, silenced
from lens_audio.evals.benchmarks import alme
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.items import with_recordings
from lens_audio.evals.runner import BatchRecords, halving
from lens_audio.evals.runs import under
from lens_audio.steering import AudioSilenceSteering, SteeringVector

ASKING = Asking(wording=wording("plain"), max_new_tokens=3, batch_size=2)
BY_LIKELIHOOD = replace(ASKING, answer_by="log-probability")
CUT = hooks.ablate("mlp_out", layers=[0, 1])
TOLD = {"reworded": {"what": "rain for siren"}}


@dataclass(frozen=True)
class Deafened:
    """A steering of one's own, which forbids the attention to the audio."""

    @contextmanager
    def attach(self, model):
        with model.hooks(fwd_hooks=hooks.knock_out_attention(keys="audio")):
            yield model


UNCHANGED = (
    "base", "steered", "steered random 1", "fixed", "silenced", "noise", "aad", "aad noise", "deaf",
    "unread", "zeroed", "mute", "deafened",
)  # fmt: skip


def by_audio(model):
    """Runs that act through the audio: none of them changes an answer to text alone."""
    fixed = torch.linspace(-9, 9, model.cfg.d_model)
    return {
        "steered": AudioSilenceSteering(heads=((1, 0), (2, 3)), beta=2.0),
        "fixed": AudioSilenceSteering(heads=((1, 0),), beta=2.0, direction=fixed),
        "silenced": silenced,
        "noise": over_noise(seed=3),
        "aad": la.steering.contrastive(alpha=1.0),
        "aad noise": la.steering.contrastive(alpha=1.0, against="noise"),
        "deaf": hooks.knock_out_attention(keys="audio"),
        "unread": hooks.scale_attention(keys="text", queries="audio", factor=0.1),
        "zeroed": hooks.ablate("resid_post", layers=[1], positions="audio"),
        "mute": hooks.ablate("audio_embed"),
        "deafened": Deafened(),
    }


def reworded(prompt):
    return prompt.remade(
        [text.replace("siren", "rain") for text in prompt.texts], prompt.waveforms or []
    )


def by_text(model):
    """Runs that need no audio."""
    direction = torch.linspace(-40, 40, model.cfg.d_model)
    cut = [*CUT, *hooks.knock_out_attention(keys="audio")]
    return {"vector": SteeringVector.supplied(direction, 2), "cut": cut, "reworded": reworded}


@pytest.fixture(scope="module")
def items(dataset):
    """Three of text alone, and between them two with a recording."""
    heard = dataset.items[:4:2]
    read = [
        replace(item, id=f"{item.id}-read", audio=None, question=item.question + " Say." * number)
        for number, item in enumerate(dataset.items[-3:])
    ]
    return [item for both in zip(read, heard, strict=False) for item in both] + read[2:]


def ask(model, dataset, items, folder, runs, settings=ASKING, **options):
    options = {
        "workers": 0,
        "verbose": False,
        "facts": TOLD if "reworded" in runs else None,
        **options,
    }
    results, _ = evaluate(model, dataset, folder, settings, runs=runs, items=items, **options)
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mixed")


@pytest.fixture(scope="module")
def results(model, dataset, items, folder):
    return ask(model, dataset, items, folder, {**by_audio(model), **by_text(model)})


def by_hand(model, item):
    return model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)


def said(model, prompt):
    return model.generate(prompt, 3, return_type="str", verbose=False).strip()


def of_text(results):
    both = zip(results.items, results.records, strict=True)
    return [(item, record) for item, record in both if item.audio is None]


def test_text_alone_is_answered_as_the_plain_model_answers_it(results, model):
    for item, record in of_text(results):
        text = said(model, by_hand(model, item))
        answers = {name: record["runs"][name]["text"] for name in UNCHANGED}
        assert set(answers.values()) == {text}, answers


def test_other_runs_act_on_text_alone(results, model):
    for name, run in {**by_text(model), "cut": CUT}.items():
        for item, record in of_text(results):
            prompt = by_hand(model, item)
            with under(run, model, prompt) as asked:
                assert record["runs"][name]["text"] == said(model, asked), name
        answers = [record["runs"][name]["text"] for _, record in of_text(results)]
        assert answers != [record["runs"]["base"]["text"] for _, record in of_text(results)], name


def test_answers_about_recordings_are_as_without_the_others(
    results, model, dataset, items, tmp_path
):
    runs = {
        name: run for name, run in by_audio(model).items() if name in ("steered", "aad", "deaf")
    }
    heard = [item for item in items if item.audio is not None]
    alone = ask(model, dataset, heard, tmp_path, runs)
    together = {record["id"]: record["runs"] for record in results.records}
    for record in alone.records:
        assert record["runs"].items() <= together[record["id"]].items()


def test_options_are_scored_as_the_plain_model_scores_them(model, dataset, items, tmp_path):
    read = [item for item in items if item.audio is None]
    found = ask(model, dataset, read, tmp_path, by_audio(model), BY_LIKELIHOOD)
    for item, record in zip(found.items, found.records, strict=True):
        expected = choice_log_probs(model, by_hand(model, item), item.choices)[0].tolist()
        for name, answer in record["runs"].items():
            scores = [answer["log_probs"][choice] for choice in item.choices]
            assert scores == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_workers_and_a_run_that_was_cut_short_change_nothing(
    results, model, dataset, items, folder, tmp_path
):
    runs = {**by_audio(model), **by_text(model)}
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 3  # a batch with recordings, two of text alone
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    assert ask(model, dataset, items, tmp_path, runs, workers=2).records == results.records
    assert (tmp_path / "journal.jsonl").read_bytes() == b"".join(lines)


def test_results_of_text_alone_are_written(results, tmp_path):
    results.write(tmp_path)
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [record["id"] for record in written] == [item.id for item in results.items]
    assert results.failed == results.scores == {}


def test_halves_of_a_batch_of_text_are_read_where_memory_runs_out(model, items):
    read = [item for item in items if item.audio is None]
    prompt = model.prompt([item.question for item in read])

    def work(prompt, items):
        if len(items) > 2:
            raise MemoryError
        return BatchRecords(
            [{"id": i.id, "text": t} for i, t in zip(items, prompt.texts, strict=True)]
        )

    found = halving(work, prompt, read).items
    assert found == [{"id": i.id, "text": t} for i, t in zip(read, prompt.texts, strict=True)]


def test_rows_have_their_own_clips(model, items):
    prompt = model.prompt([i.question for i in items[:4]], audio=[i.audio for i in items[:4]])
    some = rows(prompt, 2, 4)  # text alone, and the second recording
    assert some.texts == prompt.texts[2:]
    assert [len(some.clips_of(row)) for row in range(2)] == [0, 1]
    assert np.array_equal(some.waveforms[0], prompt.waveforms[1])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12), st.integers(1, 4))
def test_text_alone_is_planned_apart_and_changes_no_other_batch(kinds, batch_size):
    sound = np.zeros(1600, dtype=np.float32), 16000
    items = [
        AudioQAItem(str(n), "?" * (1 + letters), ("a", "b"), "a", sound if heard else None)
        for n, (letters, heard) in enumerate(kinds)
    ]
    batches = [[items[i] for i in batch] for batch in plan(items, batch_size)]
    assert sorted(item.id for batch in batches for item in batch) == sorted(i.id for i in items)
    heard = [item for item in items if item.audio is not None]
    alone = [[heard[i] for i in batch] for batch in plan(heard, batch_size)]
    assert batches[: len(alone)] == alone
    for batch in batches[len(alone) :]:
        assert all(item.audio is None for item in batch)


def test_the_protocol_and_calibration_need_recordings(model, dataset, items, settings, tmp_path):
    message = rf"testbed, by the paper's protocol.*item '{items[0].id}': it has no recording"
    for asking in (settings, Settings(wording("plain"), runs=("base",))):
        with pytest.raises(ValueError, match=message):
            evaluate(model, dataset, tmp_path / "none", asking, items=items)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"calibration items: .*it has no recording"):
        la.steering.calibrate(model, items, verbose=False)


def test_text_alone_does_not_lift_the_refusal_of_missing_files(model, dataset, items, tmp_path):
    gone = replace(items[1], audio=tmp_path / "gone.wav")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 recordings are missing: gone\.wav"):
        ask(model, dataset, [gone, items[0]], tmp_path, {})
    assert with_recordings([gone, items[0], items[3]]) == [items[0], items[3]]
    with pytest.raises(ValueError, match="none of the recordings was found"):
        with_recordings([gone, items[0]])


def heard_stimulus(tmp_path, item, other, ref_text):
    """A stimulus about a sound, whose changed transcript is of another."""
    soundfile.write(tmp_path / f"{item.id}.wav", *item.audio)
    return {
        "stimulus_id": item.id, "language": "EN", "audio_path": f"{item.id}.wav",
        "ref_text": ref_text, "conflict_text": f"I hear a {other}.",
        "question": {
            "question_text": "What do you hear?", "choices": [other, item.answer],
            "correct_answer": item.answer, "flip_type": "noun_swap",
        },
    }  # fmt: skip


def test_alme_is_asked_in_all_conditions(tmp_path, model):
    whistle, bird, _, cricket = SyntheticQA.make(4).items[:4]
    rows = [
        heard_stimulus(tmp_path, whistle, "cricket", "I hear a whistle."),
        heard_stimulus(tmp_path, bird, "horn", "I hear a bird."),
        heard_stimulus(tmp_path, cricket, "siren", "I hear a siren."),  # not understood in text
    ]
    (tmp_path / "stimuli.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [
        "eval",
        "alme",
        tmp_path / "stimuli.jsonl",
        "--run",
        "deaf=knock-out",
        "--device",
        "cpu",
    ]
    command += ["--answer-by", "log-probability", "--workers", "0"]
    out = tmp_path / "out"
    made = CliRunner().invoke(app, [*map(str, command), "--out", str(out)])
    assert made.exit_code == 0, made.output
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [answer["condition"] for answer in answers] == [*alme.CONDITIONS] * 3
    for answer in answers[1::4]:
        prompt = model.prompt(answer["question"])
        expected = choice_log_probs(model, prompt, answer["choices"])[0].tolist()
        for run in ("base", "deaf"):
            scores = answer["runs"][run]["log_probs"]
            assert list(scores.values()) == pytest.approx(expected, rel=1e-4)
    found = pd.read_csv(out / "metrics.csv").set_index(["run", "metric"])["value"]
    # It follows the changed transcript of the whistle and the cricket, and hears the bird.
    assert found["base"].to_dict() == {
        "text-dominance ratio": pytest.approx(2 / 3),
        "text-dominance ratio, understood in text": 1 / 2,
        "accuracy, audio_only": 1,
        "accuracy, text_only": pytest.approx(2 / 3),
        "accuracy, audio_text_aligned": pytest.approx(2 / 3),
        "accuracy, audio_text_conflict": pytest.approx(1 / 3),
    }
    only = ["--only", "condition=text_only", "--out", str(tmp_path / "read")]
    made = CliRunner().invoke(app, [*map(str, command), *only])
    assert made.exit_code == 0, made.output
    read_alone = [
        json.loads(l) for l in (tmp_path / "read" / "answers.jsonl").read_text().splitlines()
    ]
    assert read_alone == answers[1::4]
