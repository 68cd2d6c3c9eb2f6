"""Contrastive decoding of a plain transformers model gives what that of ours gives."""

from types import SimpleNamespace

import pytest
import torch
from family_models import FAMILY_CASES

from lens_audio import HookedAudioTransformer
from lens_audio.steering import AudioSilenceSteering, contrastive
from lens_audio.steering.audio_silence.on_transformers import SILENT_LOG_MEL

N_NEW = 6


@pytest.fixture(scope="module", params=FAMILY_CASES[:2], ids=lambda family: family.name)
def both(request):
    """A transformers model, ours over its weights, and inputs of three left-padded rows."""
    family = request.param
    sizes = family.sizes(3)
    hf = family.build(sizes, 3)

    class Extractor:
        sampling_rate, hop_length = 16000, 160

        def __call__(self, silence, max_length, **options):
            shape = len(silence), sizes.n_mels, max_length // self.hop_length
            return {"input_features": torch.full(shape, SILENT_LOG_MEL)}

    processor = SimpleNamespace(feature_extractor=Extractor())
    ours = HookedAudioTransformer.from_hf(hf, processor)
    ours.tokenizer = None
    return hf, ours, family.inputs(sizes, [[23], [9, 17], []], seed=33)


def written(hf, inputs, **options):
    settings = {"max_new_tokens": N_NEW, "do_sample": False, "eos_token_id": None, **options}
    return hf.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


@pytest.fixture(scope="module")
def expected(both):
    _, ours, inputs = both
    options = {"stop_at_eos": False, "return_type": "tokens", "verbose": False}
    with contrastive(2.0, plausibility=0.01).attach(ours):
        return ours.generate(ours.prompt_from_inputs(inputs), N_NEW, **options)


@pytest.mark.parametrize("use_cache", [True, False])
def test_attached_generates_the_same_tokens(both, expected, use_cache) -> None:
    hf, _, inputs = both
    plain = written(hf, inputs)
    with contrastive(2.0, plausibility=0.01).attach_to_hf(hf):
        assert torch.equal(written(hf, inputs, use_cache=use_cache), expected)
    assert torch.equal(plain[2], expected[2])  # has no audio
    assert not torch.equal(plain[:2], expected[:2])


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_logits_processor_generates_the_same_tokens(both, expected, use_cache) -> None:
    hf, _, inputs = both
    processor = contrastive(2.0, plausibility=0.01).logits_processor(hf, inputs)
    for _ in range(2):  # it may be used again
        assert torch.equal(
            written(hf, inputs, logits_processor=[processor], use_cache=use_cache), expected
        )


def test_logits_are_those_of_ours(both) -> None:
    hf, ours, inputs = both
    prompt = ours.prompt_from_inputs(inputs)
    with torch.no_grad(), contrastive(1.5).attach(ours):
        expected = ours(prompt)
    with torch.no_grad(), contrastive(1.5).attach_to_hf(hf):
        found = hf(**inputs).logits
    real = prompt.attention_mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-3, rtol=1e-3)


def test_samples_several_sequences_of_a_prompt(both) -> None:
    hf, _, inputs = both
    settings = contrastive(2.0)
    options = {"do_sample": True, "num_return_sequences": 2}
    torch.manual_seed(0)
    processed = written(
        hf, inputs, logits_processor=[settings.logits_processor(hf, inputs)], **options
    )
    torch.manual_seed(0)
    with settings.attach_to_hf(hf):
        assert torch.equal(written(hf, inputs, **options), processed)


@pytest.fixture
def inputs(prompt):
    frames = torch.arange(prompt.mel.shape[2]) < prompt.mel_lengths[:, None]
    return {
        "input_ids": prompt.tokens,
        "attention_mask": prompt.attention_mask.long(),
        "input_features": prompt.mel,
        "feature_attention_mask": frames.long(),
    }


def test_composes_with_audio_silence_steering(model, hf_model, prompt, inputs) -> None:
    steering, settings = AudioSilenceSteering(((0, 1), (2, 3)), beta=2.0), contrastive()
    with torch.no_grad(), steering.attach(model), settings.attach(model):
        expected = model(prompt)[:, -1]
    with torch.no_grad(), steering.attach_to_hf(hf_model), settings.attach_to_hf(hf_model):
        found = hf_model(**inputs).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_model_is_itself_again_even_after_an_exception(hf_model, inputs) -> None:
    plain = hf_model(**inputs).logits
    with pytest.raises(RuntimeError, match="mine"), contrastive().attach_to_hf(hf_model):
        assert not torch.equal(hf_model(**inputs).logits, plain)
        raise RuntimeError("mine")
    assert torch.equal(hf_model(**inputs).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf_model.modules())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"against": "noise"}, "no waveforms"),
        ({"against": "without_text", "caption": "a"}, "no text"),
    ],
)
def test_refuses_what_the_inputs_do_not_tell(hf_model, inputs, options, reason) -> None:
    settings = contrastive(**options)
    with pytest.raises(ValueError, match=reason), settings.attach_to_hf(hf_model):
        pass
    with pytest.raises(ValueError, match=reason):
        settings.logits_processor(hf_model, inputs)


def test_refuses_a_second_one_beam_search_and_an_earlier_cache(hf_model, inputs) -> None:
    earlier = hf_model(**inputs).past_key_values
    token = torch.full((3, 1), 7)
    processor = contrastive().logits_processor(hf_model, inputs)
    with contrastive().attach_to_hf(hf_model):
        with pytest.raises(ValueError, match="attached already"):
            contrastive().attach_to_hf(hf_model).__enter__()
        with pytest.raises(ValueError, match="filled before"):
            hf_model(input_ids=token, past_key_values=earlier)
        with pytest.raises(ValueError, match="as beam search does"):
            written(hf_model, inputs, num_beams=3)
    with pytest.raises(ValueError, match="as beam search does"):
        written(hf_model, inputs, num_beams=3, logits_processor=[processor])
