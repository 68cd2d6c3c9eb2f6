"""Contrastive decoding is a loop of two forwards a token: over the prompt, and over the other one."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from family_models import FAMILY_CASES
from torch import Tensor

from lens_audio import AudioPrompt, HookedAudioTransformer, KeyValueCache
from lens_audio.analysis import choice_log_probs
from lens_audio.steering import AudioSilenceSteering, contrastive

GREEDY = {"stop_at_eos": False, "return_type": "tokens", "verbose": False}


def two_pass_loop(hf: Any, plain: dict, other: dict, alpha: float, n_new: int) -> Tensor:
    """Greedy tokens of transformers, each from two forwards over caches of their own."""
    sides = [{"inputs": inputs, "past": None} for inputs in (plain, other)]
    tokens = []
    for _ in range(n_new):
        a, b = (next_logits(hf, side, tokens[-1:]) for side in sides)
        tokens.append(((1 + alpha) * a - alpha * b).argmax(-1)[:, None])
    return torch.cat(tokens, dim=1)


@torch.no_grad()
def next_logits(hf: Any, side: dict, token: list[Tensor]) -> Tensor:
    """The logits after the prompt of a side, or after one more token."""
    inputs = side["inputs"]
    if token:
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(token[0])], dim=1)
        inputs = {"input_ids": token[0], "attention_mask": mask}
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)[
        :, -inputs["input_ids"].shape[1] :
    ]
    if "Omni" in type(hf).__name__:
        places = places.expand(3, -1, -1)  # of time, height and width, which text has alike
    out = hf(**inputs, position_ids=places, past_key_values=side["past"], use_cache=True)
    side["inputs"], side["past"] = inputs, out.past_key_values
    return out.logits[:, -1]


@pytest.fixture(scope="module", params=FAMILY_CASES[:2], ids=lambda family: family.name)
def sides(request) -> tuple[Any, HookedAudioTransformer, dict, dict]:
    """A model, and inputs of two prompts of three rows, left-padded, of different lengths."""
    family = request.param
    sizes = family.sizes(3)
    hf = family.build(sizes, 3)
    plain = family.inputs(sizes, [[23], [9, 17], [15]], seed=1)
    other = family.inputs(sizes, [[12], [20], [9, 9]], seed=2, longer=4)
    return hf, HookedAudioTransformer.from_hf(hf), plain, other


@pytest.mark.parametrize("use_cache", [True, False])
def test_equals_a_two_pass_loop_on_transformers_token_by_token(sides, use_cache) -> None:
    hf, model, plain, other = sides
    expected = two_pass_loop(hf, plain, other, 1.5, 8)
    prompt, against = (model.prompt_from_inputs(inputs) for inputs in (plain, other))
    with contrastive(1.5, against).attach(model):
        found = model.generate(prompt, 8, use_past_kv_cache=use_cache, **GREEDY)
    assert torch.equal(found, expected)
    assert not torch.equal(two_pass_loop(hf, plain, other, 0.0, 8), expected)


def hf_inputs(prompt: AudioPrompt) -> dict[str, Tensor]:
    frames = torch.arange(prompt.mel.shape[2])
    return {
        "input_ids": prompt.tokens,
        "attention_mask": prompt.attention_mask.long(),
        "input_features": prompt.mel,
        "feature_attention_mask": (frames < prompt.mel_lengths[:, None]).long(),
    }


def test_silence_equals_a_two_pass_loop_over_silent_waveforms(hf_model, model, prompt) -> None:
    silent = hf_inputs(prompt.silenced())
    expected = two_pass_loop(hf_model, hf_inputs(prompt), silent, 1.0, 4)
    with contrastive().attach(model):
        assert torch.equal(model.generate(prompt, 4, **GREEDY), expected)


def test_without_text_the_caption_is_missing_from_the_other_side(hf_model, model, items) -> None:
    some = items[-3:]
    captions = [item.question.split(".")[0] + "." for item in some]
    bare = [i.question.replace(c, "") for i, c in zip(some, captions, strict=True)]
    sounds = [item.audio for item in some]
    prompt = model.prompt([item.question for item in some], audio=sounds)
    other = model.prompt(bare, audio=sounds)
    assert other.tokens.shape[1] < prompt.tokens.shape[1]
    expected = two_pass_loop(hf_model, hf_inputs(prompt), hf_inputs(other), 1.0, 4)
    with contrastive(against="without_text", caption=captions).attach(model):
        assert torch.equal(model.generate(prompt, 4, **GREEDY), expected)


def test_noise_is_white_as_loud_as_the_clip_and_the_same_for_a_seed(model, prompt) -> None:
    first, again = (contrastive(against="noise", seed=7).other(prompt) for _ in range(2))
    for noise, clip in zip(first.waveforms, prompt.waveforms, strict=True):
        assert len(noise) == len(clip)
        np.testing.assert_allclose(np.square(noise).mean(), np.square(clip).mean(), rtol=1e-4)
        power = np.square(np.abs(np.fft.rfft(noise)))
        low, high = np.array_split(power[1:], 2)
        assert 0.9 < low.mean() / high.mean() < 1.1
    assert torch.equal(first.mel, again.mel)
    assert not torch.equal(first.mel, contrastive(against="noise", seed=8).other(prompt).mel)


def test_noise_is_contrasted_as_the_prompt_over_it(model, prompt) -> None:
    noise = contrastive(2.0, "noise", seed=3)
    with noise.attach(model):
        found = model(prompt, logits_to_keep=1)
    plain, other = (model(p, logits_to_keep=1) for p in (prompt, noise.other(prompt)))
    torch.testing.assert_close(found, 3 * plain - 2 * other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_only_each_rows_last_real_position_changes(model, items, side) -> None:
    some = items[-3:]
    questions, sounds = [i.question for i in some], [i.audio for i in some]
    prompt = model.prompt(questions, audio=sounds, padding_side=side)
    plain, silent = model(prompt), model(prompt.silenced())
    with contrastive(2.0).attach(model):
        found = model(prompt)
    rows, last = torch.arange(3), prompt.attention_mask.long().cumsum(1).argmax(1)
    expected = (3 * plain - 2 * silent)[rows, last]
    torch.testing.assert_close(found[rows, last], expected, atol=1e-3, rtol=0)
    found[rows, last] = plain[rows, last]
    assert torch.equal(found, plain)


def test_alpha_zero_is_the_plain_model_to_the_bit(model, prompt) -> None:
    plain = model(prompt)
    with contrastive(0.0).attach(model):
        assert torch.equal(model(prompt), plain)


@pytest.mark.parametrize("against", ["silence", "noise"])
def test_rows_without_audio_are_unchanged_to_the_bit(model, items, against) -> None:
    a, b = items[:2]
    text = model.prompt([a.question, b.question])
    mixed = model.prompt([a.question, b.question], audio=[a.audio, None])
    plain = model(text), model(text.tokens), model(mixed)
    with contrastive(3.0, against).attach(model):
        assert torch.equal(model(text), plain[0])
        assert torch.equal(model(text.tokens), plain[1])
        found = model(mixed)
    assert torch.equal(found[1], plain[2][1])
    assert not torch.equal(found[0, -1], plain[2][0, -1])


def test_implausible_tokens_are_cut_off(model, prompt) -> None:
    plain = model(prompt, logits_to_keep=1)[:, -1].softmax(-1)
    with contrastive(plausibility=0.1).attach(model):
        cut = model(prompt, logits_to_keep=1)[:, -1]
    with contrastive().attach(model):
        whole = model(prompt, logits_to_keep=1)[:, -1]
    kept = plain >= 0.1 * plain.amax(-1, keepdim=True)
    assert torch.equal(cut.isneginf(), ~kept)
    assert torch.equal(cut[kept], whole[kept])


def test_streams_what_it_generates(model, prompt) -> None:
    with contrastive().attach(model):
        pieces = list(model.generate_stream(prompt, 4))
        assert [*map("".join, zip(*pieces, strict=True))] == model.generate(prompt, 4)


def test_every_cache_is_continued_beside_its_own(model, items) -> None:
    first, second = (model.prompt(i.question, audio=i.audio) for i in items[-2:])
    with contrastive().attach(model), torch.no_grad():
        for prompts in ([first, second], [first, first]):
            alone, caches = [], []
            for prompt, token in zip(prompts, (7, 8), strict=True):
                past = KeyValueCache(model.cfg.n_layers)
                model(prompt, past_kv_cache=past)
                model(torch.tensor([[token]]), past_kv_cache=past)
                alone.append(model(torch.tensor([[9]]), past_kv_cache=past))
                past.cut(past.length - 1)
                caches.append(past)
            for past, expected in zip(caches, alone, strict=True):
                found = model(torch.tensor([[9]]), past_kv_cache=past)
                torch.testing.assert_close(found, expected)


def test_a_token_is_read_for_both_sides_at_once_and_gives_the_same_with_a_hook_set(sides) -> None:
    _, model, plain, other = sides
    prompt, against = (model.prompt_from_inputs(inputs) for inputs in (plain, other))
    reads: list[int] = []
    handle = model.blocks[0].mlp.register_forward_hook(lambda *_: reads.append(1))
    tokens = torch.arange(12).view(3, 4)
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    with contrastive(1.5, against).attach(model), torch.no_grad():
        for is_hooked, logits in found.items():
            past = KeyValueCache(model.cfg.n_layers)
            model(prompt, past_kv_cache=past)
            del reads[:]
            seen = [("blocks.1.hook_resid_pre", lambda x, hook: None)] if is_hooked else []
            with model.hooks(seen):
                for column in tokens.split(1, dim=1):
                    logits.append(model(column, past_kv_cache=past))
            assert len(reads) == tokens.shape[1] * (1 + is_hooked)
    handle.remove()
    torch.testing.assert_close(found[False], found[True], atol=1e-4, rtol=0)


def test_a_cache_read_with_hooks_without_and_cut_between_is_that_of_two_passes(sides) -> None:
    _, model, plain, other = sides
    prompt, against = (model.prompt_from_inputs(inputs) for inputs in (plain, other))
    first, again, last = torch.arange(12).view(3, 4).split((2, 1, 1), dim=1)
    hooked = [("blocks.1.hook_resid_pre", lambda x, hook: None)]

    def read(side: AudioPrompt) -> Tensor:
        past = KeyValueCache(model.cfg.n_layers)
        model(side, past_kv_cache=past)
        model(first, past_kv_cache=past)
        past.cut(past.length - 1)
        with model.hooks(hooked):
            model(again, past_kv_cache=past)
        out = model(torch.cat([last, first], dim=1), past_kv_cache=past)
        past.cut(past.length - 1)
        return torch.cat([out, model(again, past_kv_cache=past)], dim=1)

    with torch.no_grad():
        expected = 2.5 * read(prompt) - 1.5 * read(against)
        with contrastive(1.5, against).attach(model):
            torch.testing.assert_close(read(prompt), expected, atol=1e-4, rtol=0)


def test_choices_over_one_frozen_cache_are_those_of_two_passes(model, prompt) -> None:
    choices = ["bell rings", "rain"]
    with contrastive(2.0).attach(model):
        found = choice_log_probs(model, prompt, choices)
    for column, choice in enumerate(choices):
        ids = torch.tensor(model.tokenizer.encode(choice, add_special_tokens=False))
        read = []
        for side in (prompt, prompt.silenced()):
            past = KeyValueCache(model.cfg.n_layers)
            logits = [model(side, past_kv_cache=past, logits_to_keep=1)]
            if len(ids) > 1:
                logits.append(model(ids[:-1].expand(3, -1), past_kv_cache=past))
            read.append(torch.cat(logits, dim=1))
        log_probs = (3 * read[0] - 2 * read[1]).log_softmax(-1)
        expected = log_probs[:, torch.arange(len(ids)), ids].sum(1)
        torch.testing.assert_close(found[:, column], expected, atol=1e-3, rtol=0)


def test_silence_is_encoded_once_a_length_and_the_sound_once(model, prompt, monkeypatch) -> None:
    calls = []
    embed = model.embed_audio
    with contrastive().attach(model):
        model(prompt)
        monkeypatch.setattr(model, "embed_audio", lambda *a: calls.append(1) or embed(*a))
        model.generate(prompt, 3)
    assert len(calls) == 1


def test_the_other_side_is_run_without_hooks(model, prompt) -> None:
    seen: list[Tensor] = []
    with contrastive().attach(model):
        model.run_with_hooks(prompt, fwd_hooks=[("hook_embed", lambda x, hook: seen.append(x))])
    assert len(seen) == 1


def test_composes_with_audio_silence_steering(model, prompt) -> None:
    steering = AudioSilenceSteering(((0, 1), (2, 3)), beta=2.0)
    with steering.attach(model):
        steered = model(prompt, logits_to_keep=1)
        with contrastive().attach(model):
            both = model(prompt, logits_to_keep=1)
    silent = model(prompt.silenced(), logits_to_keep=1)
    torch.testing.assert_close(both, 2 * steered - silent, atol=1e-3, rtol=0)


def test_a_copy_made_while_attached_is_a_plain_model(model, prompt) -> None:
    plain = model(prompt)
    with contrastive().attach(model):
        copied = deepcopy(model)
    torch.testing.assert_close(copied(prompt), plain)


def test_detaching_leaves_no_hook_also_after_an_exception(model, prompt) -> None:
    plain = model(prompt)
    with pytest.raises(RuntimeError, match="mine"), contrastive().attach(model):
        raise RuntimeError("mine")
    assert not any(point.has_hooks() for point in model.hook_points())
    assert torch.equal(model(prompt), plain)


def test_gradients_flow_through_the_prompts_own_side(model, prompt) -> None:
    with contrastive().attach(model):
        model(prompt)[:, -1, 5].sum().backward()
    contrasted, model.embed.W_E.grad = model.embed.W_E.grad, None
    model(prompt)[:, -1, 5].sum().backward()
    torch.testing.assert_close(contrasted, 2 * model.embed.W_E.grad, atol=1e-4, rtol=1e-3)
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": float("nan")}, "alpha must be"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"against": "music"}, "against must be one of"),
        ({"against": "without_text"}, "takes away caption"),
        ({"caption": "rain"}, "takes away caption"),
        ({"plausibility": 2.0}, "share from 0 to 1"),
    ],
)
def test_refuses_bad_settings(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive(**options)


def test_refuses_other_rows_a_caption_that_is_not_there_and_a_prompt_of_tensors(
    model, prompt, items
) -> None:
    one = model.prompt(items[0].question, audio=items[0].audio)
    with pytest.raises(ValueError, match="3 rows"):
        contrastive(against=one).other(prompt)
    with pytest.raises(ValueError, match="must occur once in row 0, not 0 times"):
        contrastive(against="without_text", caption="a tuba").other(prompt)
    with pytest.raises(ValueError, match="2 captions for 3 rows"):
        contrastive(against="without_text", caption=["a", "b"]).other(prompt)
    bare = replace(prompt, texts=None, waveforms=None)
    with pytest.raises(ValueError, match="has no waveforms"):
        contrastive(against="noise").other(bare)
    with pytest.raises(ValueError, match="has no text"):
        contrastive(against="without_text", caption="a").other(bare)


def test_refuses_a_residual_stream_a_second_one_and_an_earlier_cache(model, prompt) -> None:
    resid, past = model(prompt, stop_at_layer=1), KeyValueCache(model.cfg.n_layers)
    model(prompt, past_kv_cache=past)
    with contrastive().attach(model):
        with pytest.raises(ValueError, match="start_at_layer gives no prompt"):
            model(resid, start_at_layer=1)
        with pytest.raises(ValueError, match="attached already"), contrastive().attach(model):
            pass
        with pytest.raises(ValueError, match="before contrastive decoding was attached"):
            model(torch.full((3, 1), 7), past_kv_cache=past)
