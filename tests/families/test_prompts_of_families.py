"""Prompts by each family's real processor: token counts, times, silence, long and several clips."""

import numpy as np
import pytest
import torch
from family_processors import PROCESSORS, RATE, ask, model_of, sound

import lens_audio as la

families = pytest.mark.parametrize("name", PROCESSORS)
long_clips = pytest.mark.parametrize("name", [n for n in PROCESSORS if n != "Qwen2-Audio"])


@families
@torch.no_grad()
def test_a_prompt_is_the_processors_own_input(name):
    """Tokens, and what the model makes of the features."""
    model = model_of(name)
    prompt = ask(name, 3.3)
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    inputs = model.processor(
        text=[text], audio=[sound(3.3)], sampling_rate=RATE, return_tensors="pt"
    )
    assert torch.equal(prompt.tokens, inputs["input_ids"])
    expected = model(model.prompt_from_inputs(inputs))
    torch.testing.assert_close(model(prompt), expected, atol=1e-5, rtol=0)


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
        assert int((inputs["input_ids"] == audio_id).sum()) == timing.n_tokens(-(-len(wave) // 160))


@families
def test_spans_of_tokens_cover_the_clip_one_after_another(name):
    prompt = ask(name, 3.3)
    times = prompt.audio_times(0)
    assert len(times) == len(prompt.audio_positions(0))
    assert times[0, 0] == 0
    assert times[-1, 1] == pytest.approx(3.3)
    assert torch.equal(times[1:, 0], times[:-1, 1])
    first = prompt.positions_between(0, 1.0, 1.2)
    assert torch.equal(first, prompt.audio_positions(0)[25:30])


@long_clips
def test_a_clip_longer_than_a_window(name):
    """70 s: three windows to the Flamingos, one long spectrogram to Qwen2.5-Omni."""
    prompt = ask(name, 70)
    assert prompt.n_clips == 1
    assert len(prompt.windows_of(0)) == (1 if "Omni" in name else 3)
    assert prompt.clip_seconds(0) == 70
    times = prompt.audio_times(0)
    assert len(times) == len(prompt.audio_positions(0)) == 1750
    assert torch.allclose(times[:, 0], 0.04 * torch.arange(1750, dtype=torch.float64))
    late = prompt.positions_between(0, 61.0, 61.2)
    assert torch.equal(late, prompt.audio_positions(0)[1525:1530])
    assert prompt.time_of(0, int(late[0])) == (pytest.approx(61.0), pytest.approx(61.04))


@long_clips
@torch.no_grad()
def test_silence_of_a_long_clip_is_the_processors(name):
    prompt = ask(name, 35)
    silent = prompt.silenced()
    again = prompt.with_audio(np.zeros(35 * RATE, dtype=np.float32), RATE)
    assert torch.equal(silent.tokens, again.tokens)
    lengths = prompt.mel_lengths.tolist()
    for found, expected, n in zip(silent.mel, again.mel, lengths, strict=True):
        assert torch.equal(found[:, :n], expected[:, :n])


@long_clips
def test_a_long_clip_is_drawn_whole(name):
    prompt = ask(name, 35)
    attention = la.analysis.audio_attention(model_of(name), prompt)[0, 0, :1]
    figure = la.plots.attention_over_time(prompt, attention, heads=[(0, 0)])
    drawn = next(trace for trace in figure.data if trace.yaxis == "y2")
    end = drawn.x0 + drawn.dx * (drawn.z.shape[1] - 0.5)
    assert end == pytest.approx(35, abs=0.2)


@pytest.mark.parametrize("name", ["Audio Flamingo 3", "Music Flamingo"])
def test_what_a_flamingo_cannot_take_is_told(name):
    model = model_of(name)
    two = [sound(1), sound(2)]
    with pytest.raises(ValueError, match="at most 1 a prompt"):
        model.prompt("What?", audio=[two[0], two[1]], sampling_rate=RATE)
    with pytest.raises(ValueError, match="make the prompts without audio apart"):
        model.prompt(["What?", "Who?"], audio=[two[0], None], sampling_rate=RATE)
    longest = 600 if "Audio" in name else 1200
    with pytest.raises(ValueError, match=f"at most {longest} s"):
        model.prompt("What?", audio=np.zeros((longest + 1) * 100, np.float32), sampling_rate=100)


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
