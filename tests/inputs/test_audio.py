"""load_audio: what it takes, what it makes of it, and what it refuses."""

import io
import os
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.inputs import audio as audio_module
from lens_audio.inputs import load_audio
from lens_audio.inputs.audio import is_clip, stored_seconds


@pytest.fixture
def write(tmp_path, noise):
    """write("a.wav", rate, channels): a 1 s noise file; returns its path."""

    def make(name, rate=16000, channels=1, seconds=1.0, **options):
        samples = noise(int(rate * seconds) * channels).reshape(-1, channels)
        soundfile.write(tmp_path / name, samples, rate, **options)
        return tmp_path / name

    return make


def cut(path, fraction):
    """The file at `path` with only its first `fraction` of bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


# What it takes


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_an_open_file_is_read_as_its_path_is(write, name):
    path = write(name, 44100, 2)
    with open(path, "rb") as stream:
        np.testing.assert_array_equal(load_audio(stream), load_audio(path))
    np.testing.assert_array_equal(load_audio(io.BytesIO(path.read_bytes())), load_audio(path))
    for damaged, message in ((path.read_bytes()[:8], "cannot be read|truncated"), (b"", "empty")):
        with pytest.raises(ValueError, match=message):
            load_audio(io.BytesIO(damaged))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_reads_files_as_mono_float32_at_the_target_rate(write, name, channels, rate):
    wave = load_audio(write(name, rate, channels))
    assert wave.dtype == np.float32
    assert wave.shape == (16000,)
    assert 0.1 < np.abs(wave).max() < 1.5  # lossy codecs overshoot a little


class Decoder:
    """As `torchcodec.decoders.AudioDecoder`, which newer data sets hold."""

    def __init__(self, data, sample_rate):
        self.samples = SimpleNamespace(data=torch.from_numpy(data), sample_rate=sample_rate)

    def get_all_samples(self):
        return self.samples


def test_what_data_sets_hold_is_taken(write, noise):
    path, stereo = write("a.wav", 8000), noise(2000).reshape(2, 1000)
    from_file, from_array = load_audio(path), load_audio(stereo, 8000)
    for row, expected in [
        ({"array": stereo, "sampling_rate": 8000, "path": "gone.wav"}, from_array),
        ({"array": torch.from_numpy(stereo), "sampling_rate": np.int64(8000)}, from_array),
        ({"array": stereo.tolist(), "sampling_rate": torch.tensor(8000)}, from_array),
        ({"bytes": path.read_bytes(), "path": "gone.wav"}, from_file),
        ({"bytes": None, "path": str(path)}, from_file),
        (Decoder(stereo, 8000), from_array),
    ]:
        np.testing.assert_array_equal(load_audio(row, 16000), expected)
        assert is_clip(row)


@pytest.mark.parametrize(
    "row",
    [{}, {"array": np.zeros(400)}, {"bytes": None, "path": None}, {"path": {"path": "a.wav"}}],
)
def test_a_row_without_sound_is_no_clip(row):
    with pytest.raises(TypeError, match=r"A clip must be .* not dict"):
        load_audio(row)


def test_any_binary_file_that_can_be_sought_in_is_taken(write, tmp_path):
    path = write("a.wav")
    with open(path, "rb", buffering=0) as raw, tempfile.NamedTemporaryFile(dir=tmp_path) as named:
        named.write(path.read_bytes())
        for file in (raw, named):
            np.testing.assert_array_equal(load_audio(file), load_audio(path))
    with open(path, encoding="latin-1") as text, pytest.raises(TypeError, match="binary file"):
        load_audio(text)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_the_length_by_the_header(write, name):
    path = write(name, 44100, 2, seconds=2)
    for audio in (path, path.read_bytes(), {"path": str(path)}):
        assert stored_seconds(audio) == pytest.approx(2)
    assert stored_seconds((np.zeros((2, 800)), 400)) == 2
    assert stored_seconds(b"no sound") == 0


def test_a_path_may_be_a_string_or_path_and_its_own_rate_counts(write):
    path = write("a.wav", 8000)
    np.testing.assert_array_equal(load_audio(str(path)), load_audio(path, sampling_rate=16000))


def test_file_and_array_give_the_same_samples(write):
    path = write("a.wav", 44100, 2, subtype="FLOAT")
    samples, rate = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(load_audio(path), load_audio(samples, rate))


def test_channels_are_averaged_whichever_dimension_they_are(noise):
    stereo = noise(2000).reshape(2, 1000)
    expected = stereo.mean(axis=0)
    for samples in (stereo, stereo.T, torch.from_numpy(stereo), np.asfortranarray(stereo)):
        np.testing.assert_array_equal(load_audio(samples, 16000), expected)


def test_one_channel_in_two_dimensions(noise):
    wave = noise(1000)
    for samples in (wave[None], wave[:, None], torch.from_numpy(wave)[None]):
        np.testing.assert_array_equal(load_audio(samples, 16000), wave)


def test_int16_is_scaled_to_one():
    samples = np.array([-32768, 0, 16384, 32767] * 100, dtype=np.int16)
    expected = np.array([-1, 0, 0.5, 32767 / 32768] * 100, dtype=np.float32)
    for given_ in (samples, torch.from_numpy(samples), samples.astype(">i2")):
        np.testing.assert_array_equal(load_audio(given_, 16000), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_is_taken(noise, dtype):
    wave = torch.from_numpy(noise(1000)).to(dtype)
    loaded = load_audio(wave.clone().requires_grad_(), 16000)
    np.testing.assert_array_equal(loaded, wave.float().numpy())


def test_a_pair_carries_its_own_rate(noise):
    wave = noise(8000)
    np.testing.assert_array_equal(load_audio((wave, 8000), 16000), load_audio(wave, 8000))


@pytest.mark.parametrize("rate", [16000.0, np.int64(16000)])
def test_a_whole_rate_may_be_of_another_number_type(noise, rate):
    assert len(load_audio(noise(1000), rate)) == 1000


def test_the_array_given_is_not_changed(noise):
    wave = noise(1000)
    load_audio(wave, 16000)[:] = 7
    np.testing.assert_array_equal(wave, noise(1000))


# Resampling


@settings(deadline=None, max_examples=30)
@given(rate=st.integers(1000, 200_000), n=st.integers(4000, 8000))
def test_resampling_keeps_the_length_in_seconds(rate, n):
    wave = audio_module._resample(np.zeros(n, dtype=np.float32), rate, 16000)
    assert abs(len(wave) - n * 16000 / rate) <= 1


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_is_torchaudios(noise, rate):
    wave = noise(rate)
    expected = torchaudio.functional.resample(torch.from_numpy(wave), rate, 16000).numpy()
    np.testing.assert_array_equal(load_audio(wave, rate), expected)
    odd = audio_module._resample_odd(wave, rate, 16000)
    np.testing.assert_allclose(odd, expected, atol=2e-5)


@pytest.mark.parametrize("rate", [44101, 7919, 999_983])
def test_a_rate_without_common_factor_keeps_a_tone(rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate).astype(np.float32)
    wave = load_audio(tone, rate)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(wave)) / 16000)
    np.testing.assert_allclose(wave[100:-100], expected[100:-100], atol=0.02)


# Length


def test_exactly_the_limit_is_taken_and_one_sample_more_is_refused():
    assert len(load_audio(np.zeros(30 * 44100, dtype=np.float32), 44100)) == 480_000
    with pytest.raises(ValueError, match="max_seconds=30"):
        load_audio(np.zeros(30 * 44100 + 1, dtype=np.float32), 44100)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_long_file_is_refused_or_cut_when_asked(write, name):
    path = write(name, seconds=3)
    with pytest.raises(ValueError, match=r"3 s .*at most 2 s.*max_seconds=2.*samples"):
        load_audio(path, limit_seconds=2)
    assert len(load_audio(path, limit_seconds=2, max_seconds=1.5)) == 24000
    assert len(load_audio(path, limit_seconds=5, max_seconds=4)) == 48000


def test_cutting_keeps_the_beginning(noise):
    wave = noise(32000)
    np.testing.assert_array_equal(load_audio(wave, 16000, max_seconds=1.1), wave[:17600])


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 31])
def test_max_seconds_outside_the_limit_is_refused(noise, seconds):
    with pytest.raises(ValueError, match="max_seconds"):
        load_audio(noise(1000), 16000, max_seconds=seconds)


def test_a_clip_too_short_for_one_audio_token_is_refused(noise):
    assert len(load_audio(noise(321), 16000)) == 321
    with pytest.raises(ValueError, match=r"320 samples.*at least 321"):
        load_audio(noise(320), 16000)


# Bad files


def test_missing_file_says_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.wav"):
        load_audio(tmp_path / "nothing.wav")


def test_directory(tmp_path):
    with pytest.raises(IsADirectoryError, match="directory"):
        load_audio(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not audio at all\n" * 100, b"RIFF\0\0\0\0WAVE"])
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.raw", "a"])
def test_empty_and_non_audio_files(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"empty file|cannot be read as audio"):
        load_audio(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff"])
@pytest.mark.parametrize("fraction", [0.005, 0.1, 0.5, 0.99])
def test_truncated_file(write, name, fraction):
    with pytest.raises(ValueError, match="truncated"):
        load_audio(cut(write(name), fraction))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_truncated_mp3_with_a_length_header(write, fraction):
    with pytest.raises(ValueError, match="truncated"):
        load_audio(cut(write("a.mp3", seconds=5, bitrate_mode="VARIABLE"), fraction))


def test_truncated_ogg(write):
    with pytest.raises(ValueError, match=r"truncated|empty"):
        load_audio(cut(write("a.ogg"), 0.5))


def test_mp3_without_length_header_is_read_to_its_end(tmp_path, noise):
    loud_then_quiet = np.concatenate([noise(64000), np.zeros(64000, dtype=np.float32)])
    soundfile.write(tmp_path / "a.mp3", loud_then_quiet, 16000, bitrate_mode="VARIABLE")
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(data[data.index(data[:2], 4) :])  # its first frame: the header
    assert 8 <= len(load_audio(tmp_path / "a.mp3")) / 16000 < 8.2  # with the encoder's padding


def test_a_streamed_wav_of_unknown_size_is_read(write):
    path = write("a.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(load_audio(path)) == 16000


def test_wav_without_samples(write):
    with pytest.raises(ValueError, match="empty"):
        load_audio(write("a.wav", seconds=0))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(write):
    path = write("a.wav")
    path.chmod(0)
    with pytest.raises(PermissionError):
        load_audio(path)


# Bad samples


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples(noise, bad, tmp_path):
    wave = noise(1000)
    wave[[5, 7]] = bad
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    for audio in (wave, tmp_path / "a.wav", wave.astype(np.float64)):
        with pytest.raises(ValueError, match="2 NaN or infinite samples, the first at sample 5"):
            load_audio(audio, 16000)


def test_opposite_infinities_in_two_channels():
    stereo = np.zeros((2, 1000), dtype=np.float32)
    stereo[:, 3] = np.inf, -np.inf
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        load_audio(stereo, 16000)


def test_a_float64_beyond_float32_is_infinite():
    with pytest.raises(ValueError, match="infinite"):
        load_audio(np.full(1000, 1e300), 16000)


def test_unscaled_integers_in_floats_are_refused():
    with pytest.raises(ValueError, match="divided by 32768"):
        load_audio(np.full(1000, 20000.0), 16000)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 1)])
def test_zero_length(shape):
    with pytest.raises(ValueError, match="empty"):
        load_audio(np.zeros(shape, dtype=np.float32), 16000)


@pytest.mark.parametrize("shape", [(), (1, 1, 1000), (2, 3, 4)])
def test_zero_and_three_dimensions(shape):
    for samples in (np.zeros(shape, dtype=np.float32), torch.zeros(shape)):
        with pytest.raises(ValueError, match=r"shape.*several clips as a list"):
            load_audio(samples, 16000)


@pytest.mark.parametrize("shape", [(1000, 1000), (9, 1000)])
def test_a_layout_that_says_no_channels(shape):
    with pytest.raises(ValueError, match="which dimension is channels"):
        load_audio(np.zeros(shape, dtype=np.float32), 16000)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "uint16", "int32", "int64", "bool", "complex64"]
)
def test_other_dtypes(dtype):
    samples = np.zeros(1000, dtype=dtype)
    for given_ in (samples, torch.from_numpy(samples)):
        with pytest.raises(ValueError, match=f"dtype {dtype}.*int16"):
            load_audio(given_, 16000)


@pytest.mark.parametrize("rate", [0, -16000, 16000.5, float("nan"), True, 10**9])
def test_impossible_rates(noise, rate):
    with pytest.raises(ValueError, match=r"sampling_rate=.*whole number of Hz"):
        load_audio(noise(1000), rate)


def test_samples_without_rate(noise):
    with pytest.raises(ValueError, match="pass sampling_rate="):
        load_audio(noise(1000))


@pytest.mark.parametrize("audio", [None, 3, [0.1, 0.2], {"array": 1}, ("a.wav", 16000)])
def test_what_is_not_a_clip(audio):
    with pytest.raises(TypeError, match="A clip must be"):
        load_audio(audio, 16000)
