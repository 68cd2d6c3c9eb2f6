"""build_prompt and what an AudioPrompt answers about its audio."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lens_audio as la
from lens_audio.inputs import AudioPrompt, build_prompt, n_audio_tokens

PLACE = "<|audio_bos|><|AUDIO|><|audio_eos|>"


@pytest.fixture
def ask(processor):
    """ask(question, audio, ...): build_prompt with the small processor, arrays at 16 kHz."""

    def make(question=None, audio=None, **options):
        return build_prompt(processor, question, audio, **{"sampling_rate": 16000, **options})

    return make


def text(prompt, i=0):
    return "".join(
        s for s, real in zip(prompt.str_tokens(i), prompt.attention_mask[i], strict=True) if real
    )


# Texts and templates


def test_a_question_about_a_clip(ask, noise):
    prompt = ask("What is it?", noise(16000))
    assert len(prompt) == 1
    assert prompt.n_clips == 1
    assert text(prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAudio 1: <|audio_bos|>" + "<|AUDIO|>" * 25 + "<|audio_eos|>\n"
        "What is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.mel.shape == (1, 16, 200)
    assert prompt.mel_lengths.tolist() == [100]
    assert prompt.tokens.dtype == torch.int64
    assert prompt.attention_mask.dtype == prompt.audio_mask.dtype == torch.bool
    np.testing.assert_array_equal(prompt.waveforms[0], noise(16000))


def test_the_prompt_is_the_processors(ask, processor, noise):
    waves = [noise(16000), noise(9000)]
    prompt = ask(["a?", "much longer?"], waves)
    chats = [
        [{"role": "user", "content": [{"type": "audio", "audio": w}, {"type": "text", "text": q}]}]
        for q, w in zip(["a?", "much longer?"], waves, strict=True)
    ]
    texts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    expected = processor(
        text=texts, audio=waves, sampling_rate=16000, padding=True, padding_side="left",
        return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(prompt.tokens, expected["input_ids"])
    assert torch.equal(prompt.attention_mask, expected["attention_mask"].bool())
    assert torch.equal(prompt.mel, expected["input_features"])
    assert torch.equal(prompt.mel_lengths, expected["feature_attention_mask"].sum(-1))


def test_system_replaces_the_templates_own(ask):
    assert text(ask("Hi", system="Be brief.")).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_text_only(ask):
    prompt = ask("Hi")
    assert prompt.mel is prompt.mel_lengths is prompt.waveforms is None
    assert not prompt.audio_mask.any()
    assert prompt.clips_of(0) == range(0)
    assert len(prompt.audio_positions(0)) == 0
    assert prompt.audio_times(0).shape == (0, 2)
    assert prompt.silenced() is prompt
    assert torch.equal(prompt.with_audio(None).tokens, prompt.tokens)


def test_raw_text_is_left_as_it_is(ask, noise):
    prompt = ask(raw=f"x{PLACE}y", audio=noise(1600))
    assert text(prompt) == "x<|audio_bos|>" + "<|AUDIO|>" * 2 + "<|audio_eos|>y"
    assert text(ask(raw="no template")) == "no template"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_mixes_rows_with_none_one_and_several_clips(ask, noise, side):
    clips = [noise(16000), noise(1600), noise(32000)]
    prompt = ask(
        ["none?", "one?", "two clips?"], [None, clips[0], [clips[1], clips[2]]], padding_side=side
    )
    assert [prompt.clips_of(i) for i in range(3)] == [range(0), range(0, 1), range(1, 3)]
    assert prompt.audio_mask.sum(1).tolist() == [0, 25, 52]
    padded = ~prompt.attention_mask[0]
    assert padded[0 if side == "left" else -1]
    assert not padded[-1 if side == "left" else 0]
    for i, (question, audio) in enumerate(
        [("none?", None), ("one?", clips[0]), ("two clips?", clips[1:])]
    ):
        single = ask(question, audio)
        assert torch.equal(prompt.tokens[i, prompt.attention_mask[i]], single.tokens[0])
        assert torch.equal(prompt.audio_times(i), single.audio_times(0))


def test_a_list_of_clips_for_one_question_are_one_prompts_clips(ask, noise):
    prompt = ask("Which?", [noise(1600), (noise(8000), 8000)])
    assert len(prompt) == 1
    assert prompt.clips_of(0) == range(2)
    assert text(prompt).count("Audio 2: ") == 1


def test_paths_arrays_and_tensors_mix(ask, noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(8000), 8000, subtype="FLOAT")
    prompt = ask("Which?", [tmp_path / "a.wav", str(tmp_path / "a.wav"), torch.zeros(16000)])
    assert [len(w) for w in prompt.waveforms] == [16000] * 3
    assert torch.equal(prompt.mel[0], prompt.mel[1])


def test_bytes_and_what_data_sets_hold_are_clips(ask, noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(8000), 16000, subtype="FLOAT")
    data = (tmp_path / "a.wav").read_bytes()
    array, stored = {"array": noise(8000), "sampling_rate": 16000}, {"bytes": data, "path": None}
    expected = ask("What?", tmp_path / "a.wav").mel[0]
    for clip in (data, array, stored):
        assert torch.equal(ask("What?", clip).mel[0], expected)
    batch = ask(["What?", "Which?", "Why?"], [array, [stored, data], None])
    assert [batch.clips_of(row) for row in range(3)] == [range(1), range(1, 3), range(3, 3)]


def test_a_tuple_of_an_array_and_a_path_is_two_clips(ask, noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(8000), 16000)
    assert ask("Which?", (noise(1600), str(tmp_path / "a.wav"))).n_clips == 2
    assert ask("Which?", (noise(1600), 8000)).n_clips == 1


def test_str_tokens_has_one_string_a_position(ask, noise):
    prompt = ask(["a", "bbbb é"], [noise(1600), None])
    for i in range(2):
        assert len(prompt.str_tokens(i)) == prompt.tokens.shape[1]


def test_max_seconds_cuts(ask, noise):
    prompt = ask("a", noise(40000), max_seconds=1)
    np.testing.assert_array_equal(prompt.waveforms[0], noise(40000)[:16000])


# Times


def test_positions_and_times_agree(ask, noise):
    prompt = ask("a", noise(16000 + 100))  # 101 frames: 25 tokens
    positions, times = prompt.audio_positions(0), prompt.audio_times(0)
    assert len(positions) == len(times) == 25
    assert times[0].tolist() == [0, 0.04]
    assert times[-1].tolist() == [0.96, 16100 / 16000]
    for position, span in zip(positions, times.tolist(), strict=True):
        assert prompt.time_of(0, position) == tuple(span)
        assert prompt.positions_between(0, *span).tolist() == [position]
    assert torch.equal(prompt.positions_between(0, 0, 16100 / 16000), positions)
    assert prompt.seconds_per_frame == 0.01


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lengths=st.lists(st.integers(321, 32000), min_size=1, max_size=3), data=st.data())
def test_time_and_token_round_trip_for_any_clips(ask, lengths, data):
    prompt = ask("a", [np.zeros(n, dtype=np.float32) for n in lengths])
    counts = [n_audio_tokens(-(-n // 160)) for n in lengths]
    assert int(prompt.audio_mask.sum()) == sum(counts)
    clip = data.draw(st.integers(0, len(lengths) - 1))
    token = data.draw(st.integers(0, counts[clip] - 1))
    position = prompt.audio_positions(0)[sum(counts[:clip]) + token]
    start, end = prompt.time_of(0, position)
    assert prompt.positions_between(0, start, end, clip=clip).tolist() == [position]
    assert start == token * 640 / 16000
    assert token < counts[clip] - 1 or end == lengths[clip] / 16000


def test_several_clips_need_a_clip_number(ask, noise):
    prompt = ask("a", [noise(16000), noise(32000)])
    second = prompt.positions_between(0, 0, 0.04, clip=1)
    assert second.tolist() == [prompt.audio_positions(0)[25]]
    assert prompt.time_of(0, second) == (0, 0.04)
    with pytest.raises(ValueError, match="2 clips: say which with clip=0 to clip=1"):
        prompt.positions_between(0, 0, 0.04)
    with pytest.raises(ValueError, match="not clip 2"):
        prompt.positions_between(0, 0, 0.04, clip=2)


@pytest.mark.parametrize("span", [(0.5, 0.5), (0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_bad_spans(ask, noise, span):
    with pytest.raises(ValueError, match="time span"):
        ask("a", noise(16000)).positions_between(0, *span)


def test_questions_about_audio_that_is_not_there(ask, noise):
    with pytest.raises(ValueError, match="no audio"):
        ask("a").positions_between(0, 0, 1)
    with pytest.raises(ValueError, match="not an audio token"):
        ask("a", noise(16000)).time_of(0, 0)
    for method in ("str_tokens", "audio_positions", "audio_times", "clips_of"):
        with pytest.raises(IndexError, match="rows 0 to 0"):
            getattr(ask("a"), method)(1)


# Other audio, silence, devices


def test_with_audio_keeps_the_text_and_follows_the_new_clip(ask, noise):
    prompt = ask("What is it?", noise(16000))
    other = prompt.with_audio(noise(20000), 16000)
    expected = ask("What is it?", noise(20000))
    assert torch.equal(other.tokens, expected.tokens)
    assert torch.equal(other.mel, expected.mel)
    assert other.with_audio((noise(16000), 16000)).tokens.tolist() == prompt.tokens.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_with_audio_for_a_batch(ask, noise, side):
    prompt = ask(["a", "bb"], [noise(16000), [noise(1600)]], padding_side=side)
    other = prompt.with_audio([noise(1600), noise(30000)], 16000)
    expected = ask(["a", "bb"], [noise(1600), noise(30000)], padding_side=side)
    assert torch.equal(other.tokens, expected.tokens)
    assert torch.equal(other.attention_mask, expected.attention_mask)


def test_with_audio_needs_as_many_clips(ask, noise):
    prompt = ask("a", noise(16000))
    with pytest.raises(ValueError, match=r"1 .*placeholders and has 2 clips"):
        prompt.with_audio([noise(16000)] * 2, 16000)
    with pytest.raises(ValueError, match="placeholders and has 0 clips"):
        prompt.with_audio(None)
    with pytest.raises(ValueError, match="pass sampling_rate="):
        prompt.with_audio(noise(16000))
    with pytest.raises(ValueError, match="at most 2 s"):
        prompt.with_audio(noise(33000), 16000)


def test_silenced_keeps_length_and_tokens(ask, processor, noise):
    prompt = ask(["a", "b"], [[noise(16000), noise(1600)], noise(30000)])
    silent = prompt.silenced()
    assert torch.equal(silent.tokens, prompt.tokens)
    assert torch.equal(silent.audio_mask, prompt.audio_mask)
    assert torch.equal(silent.mel_lengths, prompt.mel_lengths)
    assert [len(w) for w in silent.waveforms] == [16000, 1600, 30000]
    assert not any(w.any() for w in silent.waveforms)
    zeros = [[np.zeros(16000), np.zeros(1600)], np.zeros(30000)]
    assert torch.equal(silent.mel, ask(["a", "b"], zeros).mel)
    assert not torch.equal(prompt.mel, silent.mel)  # the original is as it was


def test_to_moves_every_tensor(ask, noise):
    prompt = ask("a", noise(16000)).to("meta")
    for name in ("tokens", "attention_mask", "audio_mask", "mel", "mel_lengths"):
        assert getattr(prompt, name).device.type == "meta"
    assert ask("a", device="meta").tokens.device.type == "meta"


def test_repr_is_short(ask, noise):
    prompt = ask("a", noise(8000))
    n = prompt.tokens.shape[1]
    assert repr(prompt) == f"AudioPrompt(batch=1, tokens={n}, clips=1, seconds=[0.50])"


# Bad input


@pytest.mark.parametrize("raw", ["no place", PLACE * 2, "<|AUDIO|>" * 25])
def test_raw_without_or_with_too_many_placeholders(ask, noise, raw):
    with pytest.raises(ValueError, match=r"placeholders and has 1 clips.*once for each clip"):
        ask(raw=raw, audio=noise(16000))


def test_raw_placeholder_without_audio(ask):
    with pytest.raises(ValueError, match=r"holds 1 .* placeholders and has 0 clips"):
        ask(raw=PLACE)


def test_placeholders_are_counted_row_by_row(ask, noise):
    with pytest.raises(ValueError, match="Prompt 0 holds 2"):
        ask(raw=[PLACE * 2, "none"], audio=[noise(1600), noise(1600)])


def test_a_question_that_writes_the_placeholder(ask, noise):
    for options in ({"question": "what is <|AUDIO|>?"}, {"question": "a", "system": "<|AUDIO|>"}):
        with pytest.raises(ValueError, match=r"holds <\|AUDIO\|>, which stands for a clip"):
            ask(audio=noise(1600), **options)


def test_neither_or_both_of_question_and_raw(ask):
    for options in ({}, {"question": "a", "raw": "b"}):
        with pytest.raises(ValueError, match="either a question or raw="):
            ask(**options)


@pytest.mark.parametrize("question", ["", "  \n", ["a", ""]])
def test_empty_question(ask, question):
    with pytest.raises(ValueError, match="is empty"):
        ask(question)
    with pytest.raises(ValueError, match="is empty"):
        ask(raw=question)


def test_no_questions(ask):
    with pytest.raises(ValueError, match="at least one"):
        ask([])


def test_a_question_that_is_no_string(ask):
    with pytest.raises(TypeError):  # ours, or that of the type checks of the tests
        ask(["a", 3])


def test_audio_and_questions_of_different_lengths(ask, noise):
    for audio in ([noise(1600)], [noise(1600)] * 3, noise(1600), [], np.zeros((2, 1600))):
        with pytest.raises(ValueError, match=r"2 prompts and .* of audio"):
            ask(["a", "b"], audio)


def test_audio_of_another_kind(ask):
    for audio in (3, {"array": 1}, 0.5):
        with pytest.raises(TypeError, match="audio must be"):
            ask("a", audio)
    with pytest.raises(TypeError, match="A clip must be"):
        ask("a", [0.1, 0.2])


def test_a_bad_clip_is_named(ask, noise):
    bad = np.full(1000, np.nan)
    with pytest.raises(ValueError, match="NaN") as caught:
        ask(["a", "b"], [None, [noise(1600), bad]])
    assert caught.value.__notes__ == ["(in the audio of prompt 1, clip 1)"]


def test_system_with_raw_and_a_bad_padding_side(ask):
    with pytest.raises(ValueError, match="system="):
        ask(raw="a", system="b")
    with pytest.raises(ValueError, match="'left' or 'right'"):
        ask("a", padding_side="middle")


def test_no_processor_says_which_files_are_missing():
    with pytest.raises(ValueError, match=r"tokenizer\.json.*preprocessor_config\.json"):
        build_prompt(None, "a")


def test_a_tokenizer_without_the_audio_token():
    from transformers import Qwen2Tokenizer

    with pytest.raises(ValueError, match="no token"):
        AudioPrompt.from_tensors(torch.zeros(1, 3, dtype=torch.long), tokenizer=Qwen2Tokenizer())


def test_the_models_own_audio_token_counts_in_a_prompt_of_tensors():
    cfg = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu").cfg
    tokens = torch.tensor([[5, cfg.audio_token_id, 6]])
    prompt = la.AudioPrompt.from_tensors(
        tokens, torch.zeros(1, 64, 400), torch.tensor([9]), cfg=cfg
    )
    assert len(prompt.audio_positions(0)) == 2
