"""Answers of several runs at once, beside steering attached to the model and run one by one."""

import pytest
import torch

from lens_audio.analysis import choice_log_probs
from lens_audio.data.batches import BatchDataset, load
from lens_audio.data.wording import wording
from lens_audio.evals.answering import generate, steered_log_probs
from lens_audio.evals.prefill import prefill
from lens_audio.steering import AudioSilenceSteering
from lens_audio.steering.audio_silence.silent_prefixes import SilentPrefixes

HEADS = [(0, 1), (2, 3)]
BETAS = (0.0, 2.0, 30.0)


@pytest.fixture(scope="module")
def loaded(model, dataset):
    """Texts and recordings of different lengths, so that rows are padded."""
    batches = BatchDataset([dataset.items[::4]], model.processor, wording("plain"), 4.0, 2048, 8)
    return next(load(batches, 0))


@pytest.fixture(scope="module")
def heard(model, loaded):
    return prefill(model, loaded.prompt, [0, 2], SilentPrefixes(), answer_silence=True)


@pytest.fixture(scope="module")
def added(heard):
    return torch.stack([beta * heard.direction([0, 2]) for beta in BETAS])


def test_runs_that_share_forwards_say_what_each_says_alone(model, loaded, heard, added):
    together = generate(model, heard.prefill, added, 6, lambda text: False)
    assert together[0] != together[1] != together[2]
    for beta, said in zip(BETAS, together, strict=True):
        with AudioSilenceSteering(HEADS, beta).attach(model):
            alone = model.generate(loaded.prompt, 6, return_type="str", verbose=False)
        assert said == [text.strip() for text in alone]


def test_the_silent_side_is_answered_as_silenced_prompts_are(model, loaded, heard, added):
    said = generate(model, heard.silent_prefill, added[:1], 6, lambda text: False)[0]
    alone = model.generate(loaded.prompt.silenced(), 6, return_type="str", verbose=False)
    assert said == [text.strip() for text in alone]


def test_log_probabilities_of_options_are_those_of_each_steering(model, dataset, heard, added):
    endings = ("", " or a bell")
    options = [
        [model.tokenizer.encode(choice + end) for choice in item.choices for end in endings]
        for item in dataset.items[::4]
    ]
    together = steered_log_probs(model, heard.prefill, added, options)
    item = dataset.items[4]
    prompt = model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)
    texts = [choice + end for choice in item.choices for end in endings]
    for beta, found in zip(BETAS, together, strict=True):
        with AudioSilenceSteering(HEADS, beta).attach(model):
            alone = choice_log_probs(model, prompt, texts)[0]
        torch.testing.assert_close(torch.tensor(found[1]), alone, atol=1e-4, rtol=1e-5)


def test_an_answer_ends_where_it_is_closed(model, heard, added):
    whole = generate(model, heard.prefill, added[2:], 6, lambda text: False)[0]
    cut = generate(model, heard.prefill, added[2:], 6, lambda text: len(text) >= 3)[0]
    assert any(len(a) < len(b) for a, b in zip(cut, whole, strict=True))
    assert all(b.startswith(a) for a, b in zip(cut, whole, strict=True))


def test_the_direction_is_the_one_that_steering_computes(model, loaded, heard):
    expected = AudioSilenceSteering(HEADS).directions(model, loaded.prompt)
    torch.testing.assert_close(heard.direction([0, 2]), expected, atol=1e-5, rtol=1e-5)


def test_hearing_leaves_no_hooks_behind(model, heard):
    assert not any(point.has_hooks() for point in model.hook_points())
