"""Prompts by each family's real processor: token counts, times, silence, long and several clips."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_processors import PROCESSORS, RATE, ask, model_of, sound

import lens_audio as la

STARTS = {  # of the audio tokens of 70 s, in seconds
    "Qwen3-ASR": (torch.arange(70)[:, None] + 0.08 * torch.arange(13).double()).flatten(),
    "GLM-ASR": 0.08 * torch.arange(875, dtype=torch.float64),
}
AT_25_A_SECOND = 0.04 * torch.arange(1750, dtype=torch.float64)
# Of the audio tokens those that sound between 1.0 and 1.2 s, and between 61.0 and 61.2 s.
AFTER_A_SECOND = {"Qwen3-ASR": (13, 16), "GLM-ASR": (12, 15)}
AFTER_A_MINUTE = {"Qwen3-ASR": (793, 796), "GLM-ASR": (762, 765)}
ONE_SPECTROGRAM = ["Qwen2.5-Omni", "Qwen3-ASR"]  # however long the clip
families = pytest.mark.parametrize("name", PROCESSORS)
long_clips = pytest.mark.parametrize("name", [n for n in PROCESSORS if n != "Qwen2-Audio"])


@families
@torch.no_grad()
@pytest.mark.parametrize("seconds", [[3.3], [1.23, 0.3, 3.3]], ids=["one clip", "several clips"])
def test_a_prompt_is_the_processors_own_input(name, seconds):
    """Tokens, and what the model makes of the features."""
    model, clips = model_of(name), [sound(s) for s in seconds]
    prompt = model.prompt(["What?"] * len(clips), audio=clips, sampling_rate=RATE)
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    inputs = model.processor(
        text=[text] * len(clips),
        audio=clips,
        sampling_rate=RATE,
        text_kwargs={"padding": True},
        return_tensors="pt",
    )
    assert torch.equal(prompt.tokens, inputs["input_ids"])
    expected, real = model(model.prompt_from_inputs(inputs)), prompt.attention_mask
    torch.testing.assert_close(model(prompt)[real], expected[real], atol=1e-5, rtol=0)


def mel_frames(name, n_samples):
    """Of a clip that is a batch of its own; Qwen3-ASR's last hop is whole, and not before half a second."""
    return max(n_samples, RATE // 2) // 160 if name == "Qwen3-ASR" else -(-n_samples // 160)


@families
def test_token_counts_of_fifty_lengths(name):
    """Ours before the processor has run, and the processor's."""
    timing, longest = model_of(name).cfg.audio, 29.9
    processor = model_of(name).processor
    place = model_of(name).cfg.prompt_parts.clip(processor)[1]
    audio_id = model_of(name).cfg.audio_token_id
    waves = [sound(seconds) for seconds in np.linspace(0.05, longest, 50)]
    for wave in waves:
        inputs = processor(text=[place], audio=[wave], sampling_rate=RATE, return_tensors="pt")
        expected = timing.n_tokens(mel_frames(name, len(wave)))
        assert int((inputs["input_ids"] == audio_id).sum()) == expected


@families
def test_spans_of_tokens_cover_the_clip_one_after_another(name):
    prompt = ask(name, 3.3)
    times = prompt.audio_times(0)
    assert len(times) == len(prompt.audio_positions(0))
    assert times[0, 0] == 0
    assert times[-1, 1] == pytest.approx(3.3)
    assert torch.equal(times[1:, 0], times[:-1, 1])
    first = prompt.positions_between(0, 1.0, 1.2)
    begin, end = AFTER_A_SECOND.get(name, (25, 30))
    assert torch.equal(first, prompt.audio_positions(0)[begin:end])


@long_clips
def test_a_clip_longer_than_a_window(name):
    """70 s: three windows, or one long spectrogram."""
    prompt, starts = ask(name, 70), STARTS.get(name, AT_25_A_SECOND)
    assert prompt.n_clips == 1
    assert len(prompt.windows_of(0)) == (1 if name in ONE_SPECTROGRAM else 3)
    assert prompt.clip_seconds(0) == 70
    times = prompt.audio_times(0)
    assert len(prompt.audio_positions(0)) == len(times)
    torch.testing.assert_close(times[:, 0], starts, atol=1e-9, rtol=0)
    late = prompt.positions_between(0, 61.0, 61.2)
    begin, end = AFTER_A_MINUTE.get(name, (1525, 1530))
    assert torch.equal(late, prompt.audio_positions(0)[begin:end])
    span = (pytest.approx(float(starts[begin])), pytest.approx(float(starts[begin + 1])))
    assert prompt.time_of(0, int(late[0])) == span


@long_clips
@torch.no_grad()
def test_silence_of_a_long_clip_is_the_processors(name):
    prompt = ask(name, 35.13)
    silent = prompt.silenced()
    again = prompt.with_audio(np.zeros(len(sound(35.13)), dtype=np.float32), RATE)
    assert torch.equal(silent.tokens, again.tokens)
    assert torch.equal(silent.mel, again.mel)


@families
@torch.no_grad()
def test_silence_of_a_row_is_to_the_model_that_of_its_batch(name):
    model, clips = model_of(name), [sound(1.3), sound(3.7)]
    batch = model.prompt(["What?"] * 2, audio=clips, sampling_rate=RATE)
    expected, real = model(batch.silenced()), batch.attention_mask
    for row in range(2):
        fields = ("tokens", "attention_mask", "audio_mask", "mel", "mel_lengths", "waveforms")
        of_row = {field: getattr(batch, field)[row : row + 1] for field in fields}
        found = model(replace(batch, **of_row).silenced())
        torch.testing.assert_close(found[0][real[row]], expected[row][real[row]], atol=1e-5, rtol=0)


@long_clips
def test_a_long_clip_is_drawn_whole(name):
    prompt = ask(name, 35)
    attention = la.analysis.audio_attention(model_of(name), prompt)[0, 0, :1]
    figure = la.plots.attention_over_time(prompt, attention, heads=[(0, 0)])
    drawn = next(trace for trace in figure.data if trace.yaxis == "y2")
    end = drawn.x0 + drawn.dx * (drawn.z.shape[1] - 0.5)
    assert end == pytest.approx(35, abs=0.2)


@pytest.mark.parametrize("name", ["Audio Flamingo 3", "Music Flamingo", "Qwen3-ASR", "GLM-ASR"])
def test_what_a_processor_cannot_take_is_told(name):
    model = model_of(name)
    two = [sound(1), sound(2)]
    with pytest.raises(ValueError, match="at most 1 a prompt"):
        model.prompt("What?", audio=[two[0], two[1]], sampling_rate=RATE)
    with pytest.raises(ValueError, match="make the prompts without audio apart"):
        model.prompt(["What?", "Who?"], audio=[two[0], None], sampling_rate=RATE)


@pytest.mark.parametrize(
    ("name", "seconds"), [("Audio Flamingo 3", 600), ("Music Flamingo", 1200), ("GLM-ASR", 630)]
)
def test_a_clip_that_its_processor_would_cut_is_refused(name, seconds):
    longer = np.zeros((seconds + 1) * 100, np.float32)
    with pytest.raises(ValueError, match=f"at most {seconds} s"):
        model_of(name).prompt("What?", audio=longer, sampling_rate=100)


def test_the_silence_that_qwen3_asr_hears_behind_a_short_clip_is_part_of_it():
    """Its processor makes every clip half a second long."""
    prompt = ask("Qwen3-ASR", 0.1)
    assert prompt.clip_seconds(0) == 0.5
    assert torch.equal(prompt.with_audio(sound(0.1), RATE).mel, prompt.mel)
    times = prompt.audio_times(0)
    assert len(times) == 7
    assert (times[:, 0] < times[:, 1]).all()
    assert times[-1, 1] == 0.5


def test_several_clips_of_unequal_length_go_to_qwen_omni():
    model = model_of("Qwen2.5-Omni")
    prompt = model.prompt(
        ["Which?", "What?"], audio=[[sound(1.0), sound(6.1)], [sound(0.3)]], sampling_rate=RATE
    )
    assert [len(prompt.clips_of(row)) for row in range(2)] == [2, 1]
    assert prompt.mel.shape[2] == 1000, "padded to the longest clip, not to five minutes"


@families
def test_inputs_that_no_model_of_ours_reads_are_named(name):
    with pytest.raises(ValueError, match="pixel_values: this model reads text and sound"):
        model_of(name).prompt_from_inputs({"input_ids": [[5]], "pixel_values": [1.0]})


@pytest.mark.parametrize("name", ["Audio Flamingo 3", "Music Flamingo"])
@torch.no_grad()
def test_a_last_window_too_short_for_a_token_is_part_of_its_clip(name):
    prompt = ask(name, 30.01)
    assert (prompt.n_clips, prompt.mel_lengths.tolist()) == (1, [3000, 1])
    assert len(prompt.audio_positions(0)) == 750
    assert prompt.audio_times(0)[-1, 1] == pytest.approx(30.01)
    assert model_of(name)(prompt).isfinite().all()
