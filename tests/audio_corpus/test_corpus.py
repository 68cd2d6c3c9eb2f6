"""Files of many formats, encoders, tags, cuts and joins: loaded as ffmpeg decodes them, or refused."""

import io
import os
import re
import struct
import subprocess
import tracemalloc
import warnings

import numpy as np
import pytest
from audio_corpus.corpus import FFMPEG, RATE, RECIPES, decode_all, make_all, need
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_audio.inputs import load_audio

ID3 = b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)
BIG_ID3 = b"ID3\x04\0\0\0\x04\0\0" + b"\1" * (4 << 14)  # as with a picture
ID3V1 = b"TAG" + b" " * 125
JUNK = np.random.default_rng(1).integers(0, 256, 3000, dtype=np.uint8).tobytes()


def ape_tag(name: bytes, value: bytes) -> bytes:
    item = struct.pack("<II", len(value), 0) + name + b"\0" + value
    ends = [
        b"APETAGEX"
        + struct.pack("<III", 2000, len(item) + 32, 1)
        + bytes([0, 0, 0, flags])
        + bytes(8)
        for flags in (0xA0, 0x80)
    ]
    return ends[0] + item + ends[1]


APE = ape_tag(b"Title", b"hello")
APE_PICTURE = ape_tag(b"Cover Art (Front)", 20 * JUNK)

# What stands before, between or behind whole files that a decoder takes for one.
TAGGED = {
    "id3-riff.wav": (ID3, "s16.wav"),
    "id3-aiff.aiff": (ID3, "a.aiff"),
    "id3-flac.flac": (ID3, "a.flac"),
    "two-id3.mp3": (ID3, ID3, "xing.mp3"),
    "big-id3.mp3": (BIG_ID3, "xing.mp3"),
    "id3v1.mp3": ("xing.mp3", ID3V1),
    "ape-behind.mp3": ("vbr.mp3", APE),
    "junk.mp3": (JUNK, "cbr128.mp3"),
    "junk-xing.mp3": (JUNK, "xing.mp3"),
    "zeros.mp3": (bytes(5000), "vbr.mp3"),
    "zeros-behind.mp3": ("vbr.mp3", bytes(5000)),
    "bit-rates.mp3": ("cbr128.mp3", "cbr64.mp3"),
    "joined.mp3": ("xing.mp3", "vbr.mp3"),
    "joined-tags.mp3": (ID3, "xing.mp3", ID3V1, ID3, "vbr.mp3", ID3V1),
    "joined-picture.mp3": ("xing.mp3", BIG_ID3, "xing.mp3"),
    "joined.aac": ("a.aac", "a.aac"),
    "joined.webm": ("opus.webm", "opus.webm"),
}
# Recordings one after another whose decoders stop at the first one's end, or have to start anew.
CHAINED = {
    "chain.ogg": ("vorbis.ogg", "vorbis.ogg"),
    "chain-rates.ogg": ("vorbis.ogg", "mono16.ogg"),
    "chain-channels.opus": ("opus.ogg", "mono.opus"),
    "chain-codecs.ogg": ("vorbis.ogg", "opus.ogg", "flac.ogg"),
    "id3-chain.ogg": (ID3, "vorbis.ogg", "vorbis.ogg"),
    "joined.flac": ("a.flac", "a.flac"),
    "joined.wav": ("s16.wav", "short.wav"),
    "joined.m4a": ("a.m4a", "alac.m4a"),
    "id3.m4a": (ID3, "a.m4a"),
    # FFmpeg finds no Xing header behind an APE tag, and takes a large tag for damaged sound.
    "ape.mp3": (APE, "vbr.mp3"),
    "ape-picture.mp3": (APE_PICTURE, "xing.mp3"),
    "ape-picture-behind.mp3": ("xing.mp3", APE_PICTURE),
    "ape-and-id3v1-behind.mp3": ("vbr-no-xing.mp3", APE_PICTURE, ID3V1),
    "ape.flac": (APE, "a.flac"),
    "ape.wav": (APE, "s16.wav"),
}
NO_LENGTH = ("cbr128.mp3", "cbr64.mp3", "vbr-no-xing.mp3", "a.mp2", "a.ac3", "a.ts", "piped.wav")
NOT_EXACT = ("xing.mp3", "vbr.mp3", "a.aac", "a.flv", "piped.wma")  # to a packet or two
STORE_LENGTH = [name for name in RECIPES if name not in (*NO_LENGTH, *NOT_EXACT)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_all(folder)
    for name, parts in (TAGGED | CHAINED).items():
        needed = [folder / part for part in parts if isinstance(part, str)]
        if all(path.is_file() for path in needed):
            data = [
                part if isinstance(part, bytes) else (folder / part).read_bytes() for part in parts
            ]
            (folder / name).write_bytes(b"".join(data))
    return folder


@pytest.fixture(scope="session")
def reference(folder):
    """Every sound file as ffmpeg decodes it."""
    names = [*RECIPES, *(() if FFMPEG is None else TAGGED)]
    paths = [folder / name for name in names if (folder / name).is_file()]
    return {path.name: sound for path, sound in decode_all(paths, folder).items()}


def assert_same(wave, expected, atol=1e-5):
    assert len(wave) == len(expected)
    np.testing.assert_allclose(wave, expected, atol=atol)


@pytest.mark.parametrize("name", [*RECIPES, *TAGGED])
def test_a_file_is_what_ffmpeg_decodes(folder, reference, name):
    path = need(folder / name)
    if name not in reference:
        pytest.skip("PyAV alone is no reference for tags and joins")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wave = load_audio(path)
    assert_same(wave, load_audio(*reference[name]))
    data = path.read_bytes()
    np.testing.assert_array_equal(load_audio(data), wave)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_audio(file), wave)


@pytest.mark.parametrize("name", CHAINED)
def test_a_chain_is_its_recordings_one_after_another(folder, reference, name):
    path = need(folder / name)
    parts = [reference[part] for part in CHAINED[name] if isinstance(part, str)]
    rate = parts[0][1]
    if any(part[1] != rate for part in parts):  # resampled, to a whole number of samples
        expected = sum(len(load_audio(*part)) for part in parts)
        assert abs(len(load_audio(path)) - expected) <= len(parts)
    else:
        mono = [samples.mean(axis=1) for samples, _ in parts]
        assert_same(load_audio(path), load_audio(np.concatenate(mono), rate))


def test_a_rate_that_changes_within_a_stream_is_resampled(folder):
    for name in ("xing.mp3", "mono22.mp3"):
        need(folder / name)
    joined = (folder / "xing.mp3").read_bytes() + (folder / "mono22.mp3").read_bytes()
    wave = load_audio(joined)
    first, second = load_audio(folder / "xing.mp3"), load_audio(folder / "mono22.mp3")
    assert abs(len(wave) - len(first) - len(second)) < 0.1 * 16000  # an encoder's start is heard
    pitch, expected = (np.abs(np.fft.rfft(part[-1600:])).argmax() for part in (wave, second))
    assert abs(int(pitch) - int(expected)) <= 5  # of 10 Hz; the tone rises by 400 Hz in a second


# Cuts


CUTS = [(name, fraction) for name in STORE_LENGTH for fraction in (0.2, 0.6, 0.97)]


@pytest.mark.parametrize(
    ("name", "fraction"), [*CUTS, ("xing.mp3", 0.6), ("vbr.mp3", 0.6), ("a.flv", 0.6)]
)
def test_a_cut_is_seen_where_a_length_or_an_end_is_stored(folder, name, fraction):
    data = need(folder / name).read_bytes()
    with pytest.raises(ValueError, match="truncated"):
        load_audio(data[: int(len(data) * fraction)])


@pytest.mark.parametrize("name", ["a.aac", "piped.flac", "live.webm", "pieces.mp4"])
def test_a_cut_within_the_last_packet_is_seen(folder, name):
    data = need(folder / name).read_bytes()
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        load_audio(data[:-20])


@pytest.mark.skipif(FFMPEG is None, reason="there is no ffmpeg to compare with")
@pytest.mark.parametrize("name", NO_LENGTH)
def test_what_stores_no_length_is_read_to_where_it_ends(folder, tmp_path, name):
    path, data = tmp_path / name, need(folder / name).read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    assert_same(load_audio(path), load_audio(*decode_all([path], tmp_path)[path]))


@pytest.mark.parametrize("name", ["vorbis.ogg", "opus.ogg", "flac.ogg", "chain.ogg"])
def test_an_ogg_without_its_last_page_is_truncated(folder, name):
    data = need(folder / name).read_bytes()
    with pytest.raises(ValueError, match="truncated: it lacks its end-of-stream mark"):
        load_audio(data[: data.rindex(b"OggS")])


def test_a_cut_link_of_a_chain_is_truncated(folder):
    data = need(folder / "vorbis.ogg").read_bytes()
    with pytest.raises(ValueError, match="truncated"):
        load_audio(data[: data.rindex(b"OggS")] + data)


def test_a_cut_behind_the_last_block_is_truncated(folder):
    with pytest.raises(ValueError, match=r"truncated.*end mark"):
        load_audio(need(folder / "a.voc").read_bytes()[:-1])


@pytest.mark.parametrize("name", ["vorbis.ogg", "xing.mp3", "faststart.m4a", "opus.webm", "a.aiff"])
def test_a_cut_behind_what_is_kept_does_no_harm(folder, name):
    data = need(folder / name).read_bytes()
    whole = load_audio(data, max_seconds=0.5)
    np.testing.assert_array_equal(load_audio(data[: len(data) * 3 // 4], max_seconds=0.5), whole)


@pytest.mark.long
@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(STORE_LENGTH)), st.floats(0.001, 0.995))
def test_no_cut_of_a_file_that_stores_its_length_is_loaded(folder, name, fraction):
    data = need(folder / name).read_bytes()
    with pytest.raises(ValueError, match="truncated"):
        load_audio(data[: int(len(data) * fraction)])


# Damage

NOTICED = ["xing.mp3", "vbr.mp3", "vorbis.ogg", "opus.ogg", "flac.ogg", "a.flac", "piped.flac"]


@pytest.mark.parametrize("name", [*NOTICED, "cbr128.mp3", "a.aac", "a.m4a", "opus.webm", "a.wma"])
def test_large_damage_is_refused(folder, name):
    data = bytearray(need(folder / name).read_bytes())
    middle, n = len(data) // 2, min(3000, len(data) // 4)
    data[middle : middle + n] = JUNK[:n]
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        load_audio(bytes(data))


@pytest.mark.parametrize("name", ["cbr128.mp3", "a.aac"])
def test_small_damage_is_left_out_with_a_warning(folder, name):
    data = need(folder / name).read_bytes()
    middle = len(data) // 2
    damaged = data[:middle] + JUNK[:100] + data[middle + 100 :]
    with pytest.warns(UserWarning, match=r"damaged: about 0\.\d+ s of .* is left out"):
        wave = load_audio(7 * data + damaged + 8 * data, limit_seconds=60)
    assert 0 < len(load_audio(16 * data, limit_seconds=60)) - len(wave) < 0.3 * 16000


def test_an_ogg_page_that_is_missing_is_noticed(folder):
    pages = need(folder / "vorbis.ogg").read_bytes().split(b"OggS")[1:]
    with pytest.raises(ValueError, match="damaged: about"):
        load_audio(b"".join(b"OggS" + page for page in pages[:2] + pages[3:]))


@pytest.mark.parametrize("place", [1, 400])  # in the page's mark, and among its samples
@pytest.mark.parametrize("name", ["vorbis.ogg", "opus.ogg", "flac.ogg"])
def test_a_damaged_first_page_of_samples_is_noticed(folder, name, place):
    data = bytearray(need(folder / name).read_bytes())
    pages = [place.start() for place in re.finditer(b"OggS", data)]
    first = next(page for page in pages if int.from_bytes(data[page + 6 : page + 14], "little"))
    data[first + place] ^= 1
    with pytest.raises(ValueError, match="damaged: about"):
        load_audio(bytes(data))


def with_length(flac, n_samples):
    """The file with another number of samples in its header."""
    facts = int.from_bytes(flac[18:26], "big") >> 36 << 36 | n_samples
    return flac[:18] + facts.to_bytes(8, "big") + flac[26:]


@pytest.mark.parametrize("n_samples", [0, 1, RATE])
def test_a_flac_is_decoded_to_its_end_where_its_header_says_less(folder, n_samples):
    data = need(folder / "a.flac").read_bytes()
    np.testing.assert_array_equal(load_audio(with_length(data, n_samples)), load_audio(data))


def test_a_flac_whose_header_says_more_is_truncated(folder):
    data = need(folder / "a.flac").read_bytes()
    with pytest.raises(ValueError, match=r"it says 3.000 s and only 2.000 s can be decoded"):
        load_audio(with_length(data, 3 * RATE))


@pytest.mark.parametrize("whole", [None, 0, 36])
@pytest.mark.parametrize("name", ["short.wav", "adpcm.wav"])
def test_a_wav_whose_header_says_less_than_it_holds_is_refused(folder, name, whole):
    data = bytearray(need(folder / name).read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[4:8] if whole is None else whole.to_bytes(4, "little")
    data[place : place + 4] = (8000).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"says 8000 bytes of samples, and \d+ bytes follow"):
        load_audio(bytes(data))


def test_a_tag_that_says_it_has_no_size_is_not_read_for_ever(folder):
    data = need(folder / "xing.mp3").read_bytes() + b"APETAGEX" + bytes(24)
    assert len(load_audio(data)) == len(load_audio(folder / "xing.mp3"))


# Lengths


@pytest.mark.parametrize("name", ["xing.mp3", "cbr128.mp3", "vorbis.ogg", "a.m4a", "live.webm"])
def test_a_file_beyond_the_limit_says_how_long_it_is(folder, reference, name):
    path = need(folder / name)
    samples, rate = reference[name]
    with pytest.raises(ValueError, match=f"lasts {len(samples) / rate:.6g} s .*at most 1 s"):
        load_audio(path, limit_seconds=1)
    wave = load_audio(path, limit_seconds=1, max_seconds=0.7)
    assert_same(wave, load_audio(samples[: round(0.7 * rate)], rate))


class Counting(io.BytesIO):
    """A file that counts what is read of it."""

    n_read = 0

    def read(self, size=-1):
        data = super().read(size)
        self.n_read += len(data)
        return data


@pytest.mark.parametrize("name", ["xing.mp3", "a.aac"])
def test_no_more_is_read_than_can_be_used(folder, name):
    file = Counting(need(folder / name).read_bytes() * 100)
    load_audio(file, max_seconds=1)
    assert file.n_read < len(file.getvalue()) / 3


def test_a_long_file_takes_no_more_memory_than_the_limit(folder):
    data = need(folder / "cbr128.mp3").read_bytes() * 15  # half a minute: 11 MB decoded
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"lasts 30\."):
            load_audio(data, limit_seconds=2)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


# Other streams


def ffmpeg_makes(path, *arguments):
    if FFMPEG is None:
        pytest.skip("there is no ffmpeg to make it with")
    subprocess.run([FFMPEG, "-v", "error", *arguments, path], check=True)
    return path


VIDEO = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=1")


def test_the_sound_of_a_video_is_taken(folder, reference, tmp_path):
    sound = ("-i", folder / "s16.wav", "-c:a", "alac")
    path = ffmpeg_makes(tmp_path / "a.mp4", *VIDEO, *sound, "-c:v", "mpeg4")
    assert_same(load_audio(path), load_audio(*reference["s16.wav"]))


def test_the_default_of_several_sound_tracks_is_taken(folder, reference, tmp_path):
    tracks = ("-i", folder / "short.wav", "-i", folder / "s16.wav", "-map", "0", "-map", "1")
    default = ("-c:a", "flac", "-disposition:a:0", "0", "-disposition:a:1", "default")
    path = ffmpeg_makes(tmp_path / "a.mka", *tracks, *default)
    assert_same(load_audio(path), load_audio(*reference["s16.wav"]))


def test_a_file_without_sound_says_so(tmp_path):
    path = ffmpeg_makes(tmp_path / "a.mp4", *VIDEO, "-c:v", "mpeg4")
    with pytest.raises(ValueError, match="no sound that can be decoded but only video"):
        load_audio(path)


def test_tags_in_an_old_encoding_do_no_harm(folder):
    latin = need(folder / "a.m4a").read_bytes().replace(b"Lavf", b"\xe9\xe8\xff\xfe")
    assert len(load_audio(latin)) == len(load_audio(folder / "a.m4a"))


# Hostile files


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 's16.wav'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ns16.wav\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXTINF:2,\nfile:{folder}/s16.wav\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "[playlist]\nFile1={folder}/s16.wav\n",
        "{folder}/s16.wav\n",
        "http://127.0.0.1:9/a.mp3\n",
    ],
)
def test_a_file_that_names_others_opens_none(folder, tmp_path, text):
    text = text.format(folder=folder)
    for path in (folder / "list.mp3", tmp_path / "list.m3u8"):
        path.write_text(text)
        for audio in (path, path.read_bytes()):
            with pytest.raises(ValueError, match="cannot be read as audio"):
                load_audio(audio)


STARTS = [
    b"", b"OggS\0\2", b"RIFF", b"fLaC\0\0\0\x22", b"caff\0\1\0\0", b"RIFF\x40\0\0\0WAVE", b"ID3\4\0\0",
    b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
]  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(STARTS), st.binary(min_size=1, max_size=4096))
def test_random_bytes_are_refused_whatever_they_begin_as(start, data):
    with pytest.raises(
        ValueError, match=r"be read as audio|truncated|damaged|empty|short|no sound"
    ):
        load_audio(start + data)


def test_decoders_say_nothing_on_the_terminal(folder, capfd):
    data = bytearray(need(folder / "xing.mp3").read_bytes())
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        load_audio(bytes(data[: len(data) // 2] + JUNK))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_and_devices_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    for path in (tmp_path / "a.wav", "/dev/zero"):
        with pytest.raises(ValueError, match="pipe or a device"):
            load_audio(path)
    reader, writer = os.pipe()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe, pytest.raises(ValueError, match="pass the bytes"):
        load_audio(pipe)
