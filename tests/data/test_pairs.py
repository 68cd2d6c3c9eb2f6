"""Pairs of prompts: padded and cut against numpy, groups against positions counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, make_prompt

import lens_audio as la
from lens_audio.data import pair

torch.set_num_threads(1)
MODEL = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
QUESTIONS = ["What is it?", "Which sound do you hear, and for how long?"]


def noise(seconds, seed=0):
    n = round(seconds * 16000)
    return np.random.default_rng(seed).uniform(-0.3, 0.3, n).astype(np.float32)


def ask(question, audio):
    return MODEL.prompt(question, audio=audio, sampling_rate=16000)


def of_length(wave, n):
    """Cut, or filled up with silence, by hand."""
    out = np.zeros(n, dtype=np.float32)
    out[: min(n, len(wave))] = wave[:n]
    return out


def assert_same_prompt(found, expected):
    for name in ("tokens", "attention_mask", "audio_mask", "mel", "mel_lengths"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for ours, theirs in zip(found.waveforms, expected.waveforms, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("fit", "choose"), [("pad", max), ("crop", min)])
def test_pad_and_crop_are_what_one_would_do_by_hand(fit, choose):
    waves = noise(1.3), noise(0.9, 1)
    n = choose(map(len, waves))
    found = pair(*(ask(QUESTIONS[0], wave) for wave in waves), fit=fit)
    for prompt, wave in zip((found.clean, found.corrupted), waves, strict=True):
        assert_same_prompt(prompt, ask(QUESTIONS[0], of_length(wave, n)))


@pytest.mark.parametrize(("fit", "choose"), [("pad", max), ("crop", min)])
def test_each_clip_of_each_row_is_fitted_to_its_counterpart(fit, choose):
    clean = [[noise(0.5), noise(0.9)], [noise(0.4), noise(0.3)]]
    corrupted = [[noise(0.7, 1), noise(0.2, 1)], [noise(0.4, 1), noise(0.6, 1)]]
    found = pair(ask(QUESTIONS, clean), ask(QUESTIONS, corrupted), fit=fit)
    fitted = [
        [
            [of_length(one, choose(len(one), len(two))) for one, two in zip(*both, strict=True)]
            for both in zip(rows, others, strict=True)
        ]
        for rows, others in ((clean, corrupted), (corrupted, clean))
    ]
    assert_same_prompt(found.clean, ask(QUESTIONS, fitted[0]))
    assert_same_prompt(found.corrupted, ask(QUESTIONS, fitted[1]))


@pytest.mark.parametrize("fit", ["pad", "crop", "group"])
def test_clips_that_differ_by_less_than_a_token_line_up(fit):
    waves = noise(1.0), noise(1.0, 1)[:-37]
    found = pair(*(ask(QUESTIONS[0], wave) for wave in waves), fit=fit)
    assert torch.equal(found.clean.audio_mask, found.corrupted.audio_mask)
    assert found.averaged == []


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_questions_of_unequal_length_are_left_to_groups(fit):
    prompts = [ask(question, noise(0.5)) for question in QUESTIONS]
    with pytest.raises(ValueError, match="take fit='group'"):
        pair(*prompts, fit=fit)
    assert pair(*prompts, fit="group").averaged == ["text after"]


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_prompts_of_tensors_have_no_recording_to_fit(fit):
    with pytest.raises(ValueError, match="made from tensors"):
        pair(make_prompt(), make_prompt(layout=Layout(clips=[[19]])), fit=fit)


def test_text_alone_needs_no_fitting():
    prompts = [ask(question, None) for question in ("Is it one?", "Is it two?")]
    found = pair(*prompts)
    assert (found.clean, found.corrupted) == tuple(prompts)
    assert list(pair(*prompts, fit="group").groups) == ["text before last", "last"]


def places(mask):
    return [row.nonzero().flatten().tolist() for row in mask]


def test_groups_are_windows_the_text_around_them_and_the_last_position():
    clean, corrupted = (
        make_prompt(layout=Layout(n_text, clips))
        for n_text, clips in (([6, 7], [[31], [32]]), ([6, 9], [[23], [37]]))
    )
    found = pair(clean, corrupted, fit="group", window=0.08)
    # Tokens of 40 ms; 31, 32, 23 and 37 frames make 8, 8, 6 and 9 of them. Two text tokens come
    # first, an end of the clip and the rest follow; the first row is padded on the left.
    assert {name: places(group.clean) for name, group in found.groups.items()} == {
        "text before": [[1, 2], [0, 1]],
        "0.00-0.08 s": [[3, 4], [2, 3]],
        "0.08-0.16 s": [[5, 6], [4, 5]],
        "0.16-0.37 s": [[7, 8, 9, 10], [6, 7, 8, 9]],
        "text after": [[11, 12, 13, 14], [10, 11, 12, 13, 14]],
        "last": [[15], [15]],
    }
    assert {name: places(group.corrupted) for name, group in found.groups.items()} == {
        "text before": [[6, 7], [0, 1]],
        "0.00-0.08 s": [[8, 9], [2, 3]],
        "0.08-0.16 s": [[10, 11], [4, 5]],
        "0.16-0.37 s": [[12, 13], [6, 7, 8, 9, 10]],
        "text after": [[14, 15, 16, 17], [11, 12, 13, 14, 15, 16, 17]],
        "last": [[18], [18]],
    }
    assert found.averaged == ["0.16-0.37 s", "text after"]


def test_windows_have_frames_of_the_encoder_two_a_token_and_the_one_left_over():
    clean, corrupted = (make_prompt(layout=Layout(clips=[[n]])) for n in (31, 21))
    found = pair(clean, corrupted, fit="group", window=0.08)
    frames = {name: (places(g.clean), places(g.corrupted)) for name, g in found.frames.items()}
    # 31 frames of the spectrogram are 16 of the encoder and 8 tokens; 21 are 11, of which the last
    # belongs to no token, and 5 tokens.
    assert frames == {
        "0.00-0.08 s": ([[0, 1, 2, 3]], [[0, 1, 2, 3]]),
        "0.08-0.16 s": ([[4, 5, 6, 7]], [[4, 5, 6, 7]]),
        "0.16-0.31 s": ([[8, 9, 10, 11, 12, 13, 14, 15]], [[8, 9, 10]]),
    }


def test_several_clips_have_windows_of_their_own():
    clean, corrupted = (make_prompt(layout=Layout([8], [clips])) for clips in ([12, 20], [20, 8]))
    found = pair(clean, corrupted, fit="group", window=0.08)
    assert list(found.groups) == [
        "text before", "clip 0, 0.00-0.08 s", "clip 0, 0.08-0.20 s", "text between clips 0 and 1",
        "clip 1, 0.00-0.20 s", "text after", "last",
    ]  # fmt: skip
    assert [places(mask) for mask in found.frames["clip 1, 0.00-0.20 s"]] == [
        [[], list(range(10))],
        [[], list(range(4))],
    ]


@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.tuples(st.integers(6, 40), st.integers(6, 40)), min_size=1, max_size=3),
    window=st.sampled_from([0.04, 0.05, 0.07, 0.1, 0.25]),
    n_text=st.lists(st.integers(4, 9), min_size=6, max_size=6),
)
def test_every_real_position_is_in_one_group(frames, window, n_text):
    n = len(frames)
    clean = make_prompt(layout=Layout(n_text[:n], [[f[0]] for f in frames]))
    corrupted = make_prompt(layout=Layout(n_text[3 : 3 + n], [[f[1]] for f in frames]))
    found = pair(clean, corrupted, fit="group", window=window)
    for side, prompt in enumerate((clean, corrupted)):
        count = sum(group[side].long() for group in found.groups.values())
        assert torch.equal(count, prompt.attention_mask.long())
        assert all(bool(group[side].any(1).all()) for group in found.groups.values())


ONE = make_prompt(layout=Layout(clips=[[31]]))
TWO_CLIPS = make_prompt(layout=Layout(clips=[[12, 12]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fit": "stretch"}, "fit must be 'pad', 'crop' or 'group'"),
        ({"corrupted": make_prompt(layout=Layout([7, 7], [[31], [31]]))}, "2 corrupted ones"),
        ({"corrupted": TWO_CLIPS}, "row 0 has 1 clips in clean, 2 in corrupted"),
        ({"window": 0.03}, "shorter than an audio token"),
        ({"window": float("nan")}, "shorter than an audio token"),
    ],
)
def test_what_does_not_pair_is_refused(arguments, message):
    call = {"clean": ONE, "corrupted": ONE, "fit": "group", **arguments}
    with pytest.raises(ValueError, match=message):
        pair(**call)


def test_text_that_only_one_prompt_has_is_refused():
    without = replace(
        ONE,
        tokens=ONE.tokens[:, 2:],
        attention_mask=ONE.attention_mask[:, 2:],
        audio_mask=ONE.audio_mask[:, 2:],
    )
    with pytest.raises(ValueError, match="row 0 of corrupted has no 'text before'"):
        pair(ONE, without, fit="group")


def test_prompts_of_other_rates_are_refused():
    prompt = ask(QUESTIONS[0], noise(0.5))
    with pytest.raises(ValueError, match="samples a second"):
        pair(prompt, replace(prompt, sampling_rate=8000))


def test_a_pair_says_what_is_averaged():
    found = pair(ONE, make_prompt(layout=Layout(clips=[[23]])), fit="group", window=0.08)
    assert "averaged=['0.16-0.31 s']" in repr(found)
