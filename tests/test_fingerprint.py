"""Fingerprints: whatever changes a number changes them, and nothing else does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hf_model, hooked_model, make_prompt

import lens_audio as la
from lens_audio import HookedAudioTransformer, fingerprint, hooks
from lens_audio.checkpoints.dispatch import dispatch
from lens_audio.steering import AudioSilenceSteering, SteeringVector

CACHE = {f"blocks.{layer}.attn.hook_z": torch.arange(8.0) + layer for layer in range(2)}
DIRECTION = torch.arange(1.0, 5.0)


MODEL = hooked_model()
OF_MODEL = fingerprint.of_model(MODEL)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_bit_of_every_weight_counts(data):
    weights = dict(MODEL.named_parameters())
    weight = weights[data.draw(st.sampled_from(sorted(weights)))]
    bits = weight.detach().view(-1).view(torch.uint8).numpy()
    place, bit = data.draw(st.integers(0, len(bits) - 1)), data.draw(st.integers(0, 7))
    bits[place] ^= 1 << bit
    try:
        assert fingerprint.of_model(MODEL)["weights"] != OF_MODEL["weights"]
    finally:
        bits[place] ^= 1 << bit


def test_a_model_is_the_same_wherever_its_weights_come_from_and_lie(tmp_path):
    theirs = hf_model(Sizes())
    ours = HookedAudioTransformer.from_hf(theirs)
    here = fingerprint.of_model(ours)
    assert fingerprint.of_model(hooked_model()) == here
    elsewhere = dict.fromkeys(("audio_encoder", "audio_projector", "unembed", "ln_final"), "cpu")
    places = elsewhere | {"embed": "cpu", "blocks.0": "disk", "blocks.1": "cpu"}
    spread = dispatch(hooked_model(), places, main_device="cpu", offload_dir=tmp_path)
    assert any(weight.is_meta for weight in spread.parameters())
    assert fingerprint.of_model(spread) == here
    spread.cfg.device, spread.cfg.model_name = "elsewhere", "renamed"
    assert fingerprint.of_model(spread) == here


def test_weights_that_are_nowhere_are_named():
    model = hooked_model().to("meta")
    with pytest.raises(ValueError, match="are not in memory"):
        fingerprint.of_model(model)


def test_a_models_config_and_dtype_count():
    model = hooked_model()
    before = fingerprint.of_model(model)
    model.cfg.audio.eps *= 2
    now = fingerprint.of_model(model)
    assert (now["weights"], now["config"] != before["config"]) == (before["weights"], True)
    assert fingerprint.of_model(hooked_model().double())["weights"] != before["weights"]


def test_buffers_count():
    model = torch.nn.BatchNorm1d(3)
    before = fingerprint.of_model(model)
    model.running_mean[2] = 1
    assert fingerprint.of_model(model) != before


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_entry_of_every_tensor_of_a_prompt_counts(data):
    prompt = make_prompt(layout=Layout([6, 8], [[31], [23]]))
    name = data.draw(
        st.sampled_from(["tokens", "attention_mask", "audio_mask", "mel", "mel_lengths"])
    )
    changed = getattr(prompt, name).clone()
    flat = changed.view(-1)
    place = data.draw(st.integers(0, len(flat) - 1))
    flat[place] = ~flat[place] if changed.dtype == torch.bool else flat[place] + 1
    other = fingerprint.of_prompt(replace(prompt, **{name: changed}))
    before = fingerprint.of_prompt(prompt)
    assert {key for key in before if other[key] != before[key]} == {name}


def test_text_alone_is_no_prompt_with_audio():
    prompt = make_prompt()
    assert set(fingerprint.of_prompt(replace(prompt, mel=None))) < set(
        fingerprint.of_prompt(prompt)
    )


def test_recordings_are_told_apart_by_content(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (fingerprint.of_recording(tmp_path / name) for name in "abc")
    assert a == b != c
    assert fingerprint.of_recording(tmp_path / "none") == "unreadable"
    samples = np.zeros(4, dtype=np.float32)
    assert fingerprint.of_recording((samples, 8)) != fingerprint.of_recording((samples, 16))
    assert fingerprint.of_recording((samples, 8)) == fingerprint.of_recording((samples.copy(), 8))
    samples[3] = 1e-30
    assert fingerprint.of_recording((samples, 8)) != fingerprint.of_recording((samples * 0, 8))


def test_a_processor_is_told_by_its_template_and_not_by_its_last_call():
    processor = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir()).processor
    before = fingerprint.of_processor(processor)
    processor.tokenizer(["a", "a b"], padding=True, truncation=True, max_length=3)
    assert fingerprint.of_processor(processor) == before
    processor.chat_template += " "
    assert fingerprint.of_processor(processor) != before
    assert fingerprint.of_processor(None) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_is_its_numbers_in_order_whatever_its_strides(dtype):
    x = torch.arange(24).reshape(4, 6).to(dtype)
    strided = torch.stack([x, x], dim=-1)[..., 0].T.contiguous().T
    assert fingerprint.of_tensor(strided) == fingerprint.of_tensor(x)
    assert fingerprint.of_tensor(x.T) != fingerprint.of_tensor(x)
    assert fingerprint.of_tensor(x.reshape(6, 4)) != fingerprint.of_tensor(x)
    assert fingerprint.of_tensor(x[:0]) != fingerprint.of_tensor(x[0, 0])


def test_the_same_bytes_in_another_dtype_are_another_tensor():
    x = torch.zeros(4, dtype=torch.int32)
    assert fingerprint.of_tensor(x) != fingerprint.of_tensor(x.view(torch.float32))


HOOKS = {
    "patch": lambda: hooks.patch("z", source=CACHE),
    "patch of a layer": lambda: hooks.patch("z", source=CACHE, layer=0),
    "patch of a head": lambda: hooks.patch("z", source=CACHE, heads=[1]),
    "patch at a mask": lambda: hooks.patch("z", source=CACHE, positions=torch.tensor([True, False])),
    "patch at a slice": lambda: hooks.patch("z", source=CACHE, positions=slice(0, 1)),
    "other source": lambda: hooks.patch("z", source={k: v + 1 for k, v in CACHE.items()}),
    "zero": lambda: hooks.ablate("z"),
    "mean": lambda: hooks.ablate("z", how="mean"),
    "resample": lambda: hooks.ablate("z", how="resample", source=CACHE),
    "other seed": lambda: hooks.ablate("z", how="resample", source=CACHE, seed=1),
    "knock out": lambda: hooks.knock_out_attention(keys="audio"),
    "knock out for some queries": lambda: hooks.knock_out_attention(keys="audio", queries="last"),
    "scale": lambda: hooks.scale_attention(keys="audio", factor=0.5),
    "steer": lambda: hooks.steer(DIRECTION, layer=1),
    "other direction": lambda: hooks.steer(DIRECTION + 1, layer=1),
    "other strength": lambda: hooks.steer(DIRECTION, layer=1, coefficient=2.0),
    "project out": lambda: hooks.project_out(DIRECTION, layer=1),
    "capture": lambda: hooks.capture({}, "z"),
    "vector": lambda: SteeringVector({1: DIRECTION}).hooks(3.0),
    "composed": lambda: hooks.ablate("z") + hooks.steer(DIRECTION, layer=1),
}  # fmt: skip


def test_our_hook_functions_say_what_they_do():
    told = {name: fingerprint.of_hooks(made()) for name, made in HOOKS.items()}
    assert len(set(told.values())) == len(told)
    assert {name: fingerprint.of_hooks(made()) for name, made in HOOKS.items()} == told


def test_knocking_out_is_scaling_by_nothing():
    out = hooks.knock_out_attention(keys="audio")
    assert fingerprint.of_hooks(out) == fingerprint.of_hooks(
        hooks.scale_attention(keys="audio", factor=0.0)
    )


def test_a_tensor_that_changes_in_place_changes_what_its_hook_does():
    direction = DIRECTION.clone()
    steered = hooks.steer(direction, layer=1)
    before = fingerprint.of_hooks(steered)
    direction += 1
    assert fingerprint.of_hooks(steered) != before


def test_hooks_for_a_bridge_say_what_they_do():
    model = hooked_model()
    made = hooks.ablate("resid_mid", layer=-1)
    assert fingerprint.of_hooks(hooks.on(model, made)) == fingerprint.of_hooks(
        hooks.ablate("resid_mid", layer=1)
    )


def halve(activation, hook):
    return activation / 2


def test_a_bare_function_needs_facts():
    pairs = [("blocks.0.hook_resid_post", halve)]
    with pytest.raises(ValueError, match=r"what halve at blocks.0.*Give facts=\{\.\.\.\}"):
        fingerprint.of_hooks(pairs)
    with pytest.raises(ValueError, match="halve at chosen hook points"):
        fingerprint.of_hooks([(lambda name: True, halve)])
    by, more = (fingerprint.of_hooks(pairs, {"what": "divide", "by": by}) for by in (2, 3))
    assert by != more
    assert fingerprint.of_hooks([("hook_embed", halve)], {"what": "divide", "by": 2}) != by


def test_facts_that_are_an_address_in_memory_are_refused():
    with pytest.raises(ValueError, match="cannot be told from another function by its value"):
        fingerprint.of_request({"what": halve})


def test_audio_silence_steering_says_its_direction():
    plain = AudioSilenceSteering([(0, 1)])
    directed = [AudioSilenceSteering([(0, 1)], direction=DIRECTION * n) for n in (1, 2)]
    assert len({fingerprint.of_request(s) for s in (plain, *directed)}) == 3


def test_whole_numbers_are_the_same_as_floats():
    assert fingerprint.of_request([1.0, True]) == fingerprint.of_request([1, True])
    assert fingerprint.of_request([1]) != fingerprint.of_request([True])
