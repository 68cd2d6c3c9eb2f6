"""Real recordings through the real vocabulary and the processor of the published checkpoint."""

import numpy as np
import pytest
import soundfile
import torch
from real_tokenizer import SPECIAL_TOKENS, ranks, real_processor, real_tokenizer, shared_data

from lens_audio.inputs import AudioPrompt, build_prompt, load_audio, n_audio_tokens

FILES = [
    "audio/1272-128104-0000-middle_classes.wav",  # 16 kHz
    "audio/1272-128104-0000.flac",  # 16 kHz
    "audio/es.mp3",  # 48 kHz
    "audio/glass-breaking-151256.mp3",  # 48 kHz, stereo
    "mmau/test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav",  # 32 kHz
]
TEXTS = [
    "What do you hear? It's 1,234.5 Hz!",
    "你听到了什么声音?",
    "¿Qué oyes? — ¡Cristales rotos!",
    "Что вы слышите?  日本語の音声   \n\n  العربية 🎧",
]


def test_special_tokens_have_their_ids():
    tokenizer = real_tokenizer()
    for token, number in SPECIAL_TOKENS.items():
        assert tokenizer.convert_tokens_to_ids(token) == number
        assert tokenizer(token).input_ids == [number]


@pytest.mark.parametrize("text", TEXTS)
def test_token_ids_are_tiktokens(text):
    tiktoken = pytest.importorskip("tiktoken")
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    reference = tiktoken.Encoding(
        "qwen", pat_str=pattern, mergeable_ranks=ranks(), special_tokens=SPECIAL_TOKENS
    )
    ids = real_tokenizer()(text).input_ids
    assert ids == reference.encode(text)
    assert real_tokenizer().decode(ids) == text


@pytest.mark.parametrize("path", FILES)
def test_a_recording_goes_through_as_the_processor_takes_it(path):
    processor = real_processor()
    prompt = build_prompt(processor, TEXTS[1], shared_data(path))
    wave = prompt.waveforms[0]
    chat = [
        {
            "role": "user",
            "content": [{"type": "audio", "audio": 0}, {"type": "text", "text": TEXTS[1]}],
        }
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    expected = processor(text=text, audio=wave, sampling_rate=16000, return_tensors="pt")
    assert torch.equal(prompt.tokens, expected["input_ids"])
    assert torch.equal(prompt.mel, expected["input_features"])
    assert prompt.mel.shape == (1, 128, 3000)

    info = soundfile.info(shared_data(path))
    assert len(wave) == -(-info.frames * 16000 // info.samplerate)
    assert abs(prompt.clip_seconds(0) - info.duration) <= 1 / 16000
    frames = int(prompt.mel_lengths[0])
    assert frames == -(-len(wave) // 160)
    positions, ids = prompt.audio_positions(0), prompt.tokens[0]
    assert len(positions) == n_audio_tokens(frames)
    assert (ids[positions] == 151646).all()
    assert (ids[positions[0] - 1], ids[positions[-1] + 1]) == (151647, 151648)
    assert prompt.audio_times(0)[-1, 1] == prompt.clip_seconds(0)


def test_a_file_already_at_16_khz_is_not_touched():
    path = shared_data(FILES[0])
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    np.testing.assert_array_equal(load_audio(path), samples)


def test_recordings_in_one_batch_are_what_they_are_alone():
    processor = real_processor()
    clips = [shared_data(path) for path in FILES]
    batch = build_prompt(processor, TEXTS[:3], [clips[0], clips[1:3], clips[3]])
    for i, audio in enumerate([clips[0], clips[1:3], clips[3]]):
        alone = build_prompt(processor, TEXTS[i], audio)
        assert torch.equal(batch.tokens[i, batch.attention_mask[i]], alone.tokens[0])
        assert torch.equal(batch.mel[list(batch.clips_of(i))], alone.mel)


def test_an_older_prompt_of_a_recording_is_expanded_to_the_same_tokens():
    processor = real_processor()
    prompt = build_prompt(processor, TEXTS[0], shared_data(FILES[0]))
    old = torch.tensor([processor.tokenizer(prompt.texts[0]).input_ids])
    expanded = AudioPrompt.from_tensors(old, prompt.mel, prompt.mel_lengths)
    assert torch.equal(expanded.tokens, prompt.tokens)
    assert expanded.clips_of(0) == range(1)


@pytest.mark.parametrize("path", FILES)
def test_a_truncated_recording_is_refused(path, tmp_path):
    data = shared_data(path).read_bytes()
    cut = tmp_path / f"cut.{path.rsplit('.', 1)[-1]}"
    cut.write_bytes(data[: len(data) // 2])
    if "glass" in path:  # constant bit rate, no length header: half of it is a whole file
        assert 1.9 < len(load_audio(cut)) / 16000 < 2.1
    else:
        with pytest.raises(ValueError, match="truncated"):
            load_audio(cut)
