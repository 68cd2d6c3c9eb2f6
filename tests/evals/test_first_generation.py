"""The evaluation on a model of the first generation, whose rows are read again as they grow."""

import pytest
import torch
from qwen_audio_models import write_talking_checkpoint

import lens_audio as la
from lens_audio.data.batches import BatchDataset, load
from lens_audio.data.wording import wording
from lens_audio.evals.answering import generate
from lens_audio.evals.prefill import prefill
from lens_audio.evals.protocol import Settings
from lens_audio.evals.run import evaluate
from lens_audio.steering import AudioSilenceSteering
from lens_audio.steering.audio_silence.silent_prefixes import SilentPrefixes

N_NEW = 60  # enough to pass the length at which the rotary base changes


@pytest.fixture(scope="module", params=["chatml", "raw"])
def model(request, tmp_path_factory):
    folder = write_talking_checkpoint(tmp_path_factory.mktemp("v1"), request.param)
    return la.HookedAudioTransformer.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def prompt(model, dataset):
    batches = BatchDataset([dataset.items[:3]], model.processor, wording("plain"), 2.0, 2048, 8)
    return next(load(batches, 0)).prompt


@pytest.fixture(scope="module")
def heard(model, prompt):
    return prefill(model, prompt, [0], SilentPrefixes(), answer_silence=True)


def said_alone(model, prompt):
    texts = model.generate(prompt, N_NEW, return_type="str", verbose=False)
    return [text.strip() for text in texts]


def test_runs_say_what_each_says_alone(model, prompt, heard):
    added = torch.stack([beta * heard.direction([0]) for beta in (0.0, 3.0)])
    base, steered = generate(model, heard.prefill, added, N_NEW, lambda text: False)
    assert base == said_alone(model, prompt)
    with AudioSilenceSteering([(0, 0)], 3.0).attach(model):
        assert steered == said_alone(model, prompt)


def test_the_silent_side_says_what_silenced_prompts_do(model, prompt, heard):
    nothing = torch.zeros_like(heard.prefill.final)[None]
    said = generate(model, heard.silent_prefill, nothing, N_NEW, lambda text: False)[0]
    assert said == said_alone(model, prompt.silenced())


def test_the_direction_is_the_one_that_steering_computes(model, prompt, heard):
    expected = AudioSilenceSteering([(0, 0)]).directions(model, prompt)
    torch.testing.assert_close(heard.direction([0]), expected, atol=1e-5, rtol=1e-5)


def test_a_whole_run_answers_every_item(model, dataset, tmp_path):
    settings = Settings(wording("plain"), runs=("base", "silenced"), max_new_tokens=4)
    results, _ = evaluate(model, dataset, tmp_path, settings, workers=0, verbose=False)
    assert results.failed == {}
    assert results.runs == ["base", "silenced"]
