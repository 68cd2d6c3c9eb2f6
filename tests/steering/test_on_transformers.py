"""Steering of a plain transformers model gives what steering of ours gives."""

from dataclasses import replace

import pytest
import torch
from models import Layout, Sizes, hf_inputs, make_prompt
from models import hf_model as random_hf_model

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.steering import AudioSilenceSteering
from lens_audio.steering.audio_silence.on_transformers import SILENT_LOG_MEL

HEADS = ((0, 1), (2, 3), (3, 5))


def inputs(prompt: AudioPrompt) -> dict[str, torch.Tensor]:
    found = {"input_ids": prompt.tokens, "attention_mask": prompt.attention_mask.long()}
    if prompt.mel is not None:
        frames = torch.arange(prompt.mel.shape[2]) < prompt.mel_lengths[:, None]
        found |= {"input_features": prompt.mel, "feature_attention_mask": frames.long()}
    return found


def written(hf_model, prompt: AudioPrompt, **options: object) -> torch.Tensor:
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, **options}
    return hf_model.generate(**inputs(prompt), **settings)[:, prompt.tokens.shape[1] :]


@pytest.mark.parametrize("adaptive", ["constant", "listening", "confidence"])
@pytest.mark.parametrize("n", [1, 3])
def test_generates_the_same_tokens_batched_and_single(model, hf_model, items, n, adaptive) -> None:
    some = items[-n:]
    prompt = model.prompt([i.question for i in some], audio=[i.audio for i in some])
    steering = AudioSilenceSteering(HEADS, 4.0, adaptive)
    options = {"max_new_tokens": 4, "stop_at_eos": False, "return_type": "tokens"}
    with steering.attach(model):
        ours, logits = model.generate(prompt, **options), model(prompt)
    with steering.attach_to_hf(hf_model), torch.no_grad():
        assert torch.equal(written(hf_model, prompt), ours)
        assert torch.equal(written(hf_model, prompt, use_cache=False), ours)
        theirs = hf_model(**inputs(prompt)).logits
    real = prompt.attention_mask
    torch.testing.assert_close(theirs[real], logits[real], atol=1e-3, rtol=0)


class SilentProcessor:
    """Makes the features of silence for random prompts."""

    def __init__(self, prompt: AudioPrompt) -> None:
        self.feature_extractor, self.mel = self, prompt.mel
        self.sampling_rate, self.hop_length = prompt.sampling_rate, prompt.hop_length

    def __call__(self, silence: list, **options: object) -> dict[str, torch.Tensor]:
        return {"input_features": torch.full_like(self.mel, SILENT_LOG_MEL)}


@pytest.mark.parametrize("adaptive", ["constant", "listening", "confidence"])
@pytest.mark.parametrize("seed", range(1, 5))
def test_logits_agree_on_random_models_with_grouped_keys_and_several_clips(seed, adaptive) -> None:
    sizes = Sizes.random(seed)
    theirs = random_hf_model(sizes, seed)
    ours = HookedAudioTransformer.from_hf(theirs)
    layout = Layout([7, 4, 9], [[20], [18, 9], []])
    prompt = make_prompt(sizes, layout, seed)
    prompt = replace(prompt, processor=SilentProcessor(prompt))
    heads = ((0, 0), (sizes.n_layers - 1, sizes.n_heads - 1))
    steering = AudioSilenceSteering(tuple(dict.fromkeys(heads)), 2.0, adaptive)
    with steering.attach(ours), torch.no_grad():
        expected = ours(prompt)
    with steering.attach_to_hf(theirs), torch.no_grad():
        found = theirs(**hf_inputs(prompt)).logits
    real = prompt.attention_mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(expected, ours(prompt), atol=1e-3)


def test_a_fixed_direction_and_a_mixed_batch_too(model, hf_model, items) -> None:
    a, b = items[-2:]
    prompt = model.prompt([a.question, b.question], audio=[a.audio, None])
    for direction in (None, torch.randn(128)):
        steering = AudioSilenceSteering(HEADS, 2.0, direction=direction)
        plain = hf_model(**inputs(prompt)).logits
        with steering.attach(model):
            ours = model(prompt)[:, -1]
        with steering.attach_to_hf(hf_model):
            theirs = hf_model(**inputs(prompt)).logits
        torch.testing.assert_close(theirs[:, -1], ours, atol=1e-3, rtol=0)
        assert torch.equal(theirs[1], plain[1])


def test_text_only_is_unchanged_exactly_and_follows_audio(model, hf_model, items, prompt) -> None:
    text = model.prompt(items[0].question)
    plain = hf_model(**inputs(text)).logits
    with AudioSilenceSteering(HEADS, 4.0).attach_to_hf(hf_model):
        hf_model(**inputs(prompt))
        assert torch.equal(hf_model(**inputs(text)).logits, plain)


def test_the_model_is_itself_again_even_after_an_exception(hf_model, prompt) -> None:
    plain = hf_model(**inputs(prompt)).logits
    with (
        pytest.raises(RuntimeError, match="mine"),
        AudioSilenceSteering(HEADS, 4.0).attach_to_hf(hf_model),
    ):
        assert not torch.equal(hf_model(**inputs(prompt)).logits, plain)
        raise RuntimeError("mine")
    assert torch.equal(hf_model(**inputs(prompt)).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf_model.modules())


def test_silence_has_the_value_that_the_feature_extractor_gives_it(prompt) -> None:
    assert (prompt.silenced().mel == SILENT_LOG_MEL).all()


def test_refuses_other_models_and_placeholders_not_expanded(model, hf_model, prompt) -> None:
    with (
        pytest.raises(ValueError, match="expected a transformers Qwen2-Audio"),
        AudioSilenceSteering(HEADS).attach_to_hf(torch.nn.Linear(2, 2)),
    ):
        pass
    with (
        pytest.raises(ValueError, match="does not exist"),
        AudioSilenceSteering(((0, 99),)).attach_to_hf(hf_model),
    ):
        pass
    legacy = inputs(prompt)
    keep = ~prompt.audio_mask[0]
    keep[int(prompt.audio_positions(0)[0])] = True
    row = {
        "input_ids": legacy["input_ids"][:1, keep],
        "attention_mask": legacy["attention_mask"][:1, keep],
        "input_features": legacy["input_features"][:1],
        "feature_attention_mask": legacy["feature_attention_mask"][:1],
    }
    with (
        pytest.raises(ValueError, match="every 40 ms"),
        AudioSilenceSteering(HEADS).attach_to_hf(hf_model),
    ):
        hf_model(**row)


def test_silence_in_bfloat16_is_as_long_as_the_clip() -> None:
    """bfloat16 has no whole number between 280 and 282."""
    sizes = Sizes(n_frames=150)
    hf = random_hf_model(sizes, dtype=torch.bfloat16)
    prompt = make_prompt(sizes, Layout([7], [[281]]))
    read: list[int] = []
    watch = hf.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(int(kwargs["feature_attention_mask"].sum())),
        with_kwargs=True,
    )
    given = inputs(prompt)
    given["input_features"] = given["input_features"].to(torch.bfloat16)
    with AudioSilenceSteering(((0, 0),), 1.0).attach_to_hf(hf), torch.no_grad():
        hf(**given)
    watch.remove()
    assert len(read) > 1
    assert set(read) == {281}
