"""Audio files decoded: plain wav by libsndfile, everything else by FFmpeg, to their ends."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import NoReturn, cast

import av
import numpy as np
import soundfile
from jaxtyping import Float

from lens_audio.inputs.containers import (
    UNKNOWN_SIZE,
    Recording,
    Section,
    SeekableFile,
    file_size,
    mp3_length,
    recordings,
    wav_sizes,
)

MAX_LOST = 0.01  # of a file: what cannot be decoded is left out with a warning up to here
_SLACK = 0.1  # seconds that stored lengths and decoded ones differ by: an encoder's start and end
_ROUNDING = 0.002  # the same of formats that lose nothing

# Formats that hold their sound themselves. Playlists and scripts, which name other files or
# addresses, are not among them.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,iff,matroska,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,nistsphere,ogg,tak,tta,voc,w64,wav,wv,xwma"
)
_STORES_EXACT_LENGTH = ("aiff", "ape", "au", "dsf", "flac", "tta", "wv")
_STORES_LENGTH = (*_STORES_EXACT_LENGTH, "flv", "mpc8")
_LOSES_SILENTLY = ("asf", "matroska", "ogg")  # damaged pages are skipped without an error


Runs = list[tuple[Float[np.ndarray, "_ _"], int]]  # [samples, channels] and their rate in Hz
# Decoded samples [samples, channels], their rate in Hz, and how many samples are there, of which
# these may be only the beginning.
Block = tuple[Float[np.ndarray, "_ _"], int, int]


def read_path(path: Path, enough: Callable[[int], int], cut: bool) -> tuple[Runs, float]:
    """The file at a path, as `read_stream` reads it. Directories, pipes and devices are refused."""
    with _open(path) as stream:
        return read_stream(stream, str(path), enough, cut)


def _open(path: Path) -> BufferedReader:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give the path of one audio file.")
    if not path.exists():
        raise FileNotFoundError(
            f"There is no audio file at {path} (a file on the web must be downloaded first)."
        )
    if not path.is_file():
        raise ValueError(f"{path} is no regular file but a pipe or a device: save the audio first.")
    return open(path, "rb")


def read_stream(
    stream: SeekableFile, name: str, enough: Callable[[int], int], cut: bool
) -> tuple[Runs, float]:
    """The samples of an open file, in runs of one rate and one number of channels; and its seconds.

    At most about `enough(rate)` samples are kept. Where `cut`, decoding stops there; otherwise it
    goes on to the end, to say how long the file is. Where it reaches the end, ValueError is raised
    for a file that is shorter than it says, or of which more than 1% (by bytes of what does not
    decode, or by its length) is lost; less than that is a UserWarning.
    """
    if not getattr(stream, "seekable", lambda: True)():
        raise ValueError(f"{name} cannot be read twice, as a pipe: read it and pass the bytes.")
    if file_size(stream) == 0:
        raise ValueError(f"{name} is an empty file.")
    runs: list[tuple[list[np.ndarray], int]] = []
    seconds, wanted = 0.0, 0
    for samples, rate, length in _blocks(recordings(stream), name, enough):
        wanted = wanted or enough(rate)
        first = runs[0][1] if runs else rate
        if round(seconds * first) < wanted:
            last = runs[-1] if runs else ([], 0)
            if last[1] != rate or last[0][-1].shape[1] != samples.shape[1]:
                runs.append(([], rate))
            runs[-1][0].append(samples)
        seconds += length / rate
        if cut and round(seconds * first) >= wanted:
            break
    if not runs:
        raise _unreadable(name, "no samples can be decoded")
    return [(np.concatenate(parts), rate) for parts, rate in runs], seconds


def path_seconds(path: Path) -> float:
    """How long the file at a path lasts by its header, as `stream_seconds` says."""
    with _open(path) as stream:
        return stream_seconds(stream)


def stream_seconds(stream: SeekableFile) -> float:
    """How long an open file lasts by its header, without decoding; 0 where it does not say."""
    return sum(_recording_seconds(recording.file) for recording in recordings(stream))


def _recording_seconds(file: Section) -> float:
    sound = _open_sound(file)
    if sound is not None:
        with sound:
            return sound.frames / sound.samplerate
    try:
        with _open_container(file) as container:
            return (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, ValueError):
        return 0.0


def _blocks(parts: Iterable[Recording], name: str, enough: Callable[[int], int]) -> Iterator[Block]:
    for recording in parts:
        announced, more = wav_sizes(recording.file)
        if more > MAX_LOST * announced:
            raise ValueError(
                f"{name} is damaged: its header says {announced} bytes of samples, and {more} bytes "
                f"follow that are nothing else. If they are samples, ffmpeg -ignore_length 1 -i "
                f"OLD.wav NEW.wav repairs the header."
            )
        sound = _open_sound(recording.file)
        if sound is None:
            yield from _ffmpeg_blocks(recording, name)
        else:
            with sound:
                yield _sound_block(sound, name, enough)


# Plain wav, by libsndfile


def _open_sound(file: Section) -> soundfile.SoundFile | None:
    """A wav, if it is one that libsndfile decodes exactly."""
    if file.read_at(0, 4) not in (b"RIFF", b"RIFX"):
        return None
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError):
        return None
    if not sound.subtype.startswith(("PCM", "FLOAT", "DOUBLE")):
        sound.close()
        return None
    return sound


def _sound_block(sound: soundfile.SoundFile, name: str, enough: Callable[[int], int]) -> Block:
    size = re.search(r"^\s*data : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if size and int(size[2]) < int(size[1]) < UNKNOWN_SIZE:
        raise _truncated(name, f"its header says {size[1]} bytes of samples and it holds {size[2]}")
    try:
        samples = sound.read(enough(sound.samplerate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(name, str(error)) from error
    expected = min(enough(sound.samplerate), sound.frames)
    if len(samples) < expected:
        _refuse_short(name, expected / sound.samplerate, len(samples) / sound.samplerate)
    return samples, sound.samplerate, max(sound.frames, len(samples))


# Everything else, by FFmpeg


def _open_container(file: Section) -> av.container.InputContainer:
    """A container that opens nothing but its own bytes, whatever they name."""

    def refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
        raise ValueError(f"the file names another one, {url!r}, which is not opened")

    file.seek(0)
    return av.open(
        file,
        "r",
        container_options={"format_whitelist": _FORMATS},
        metadata_errors="replace",
        io_open=refuse,
    )


def _ffmpeg_blocks(recording: Recording, name: str) -> Iterator[Block]:
    try:
        container = _open_container(recording.file)
    except (av.error.FFmpegError, ValueError) as error:
        if recording.missing:
            raise _truncated(name, f"it lacks {recording.missing}") from error
        raise _unreadable(name, _reason(error)) from error
    with container:
        stream = cast(av.AudioStream | None, container.streams.best("audio"))
        if stream is None and recording.missing:
            raise _truncated(name, f"it lacks {recording.missing}")
        if stream is None or stream.codec_context is None:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            what = "sound in a codec that FFmpeg lacks" if stream else f"only {kinds}"
            raise ValueError(f"{name} holds no sound that can be decoded but {what}.")
        if stream.codec_context.name == "flac":  # its frames have checksums
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        decoding = _Decoding(container, stream)
        for samples, rate in decoding.frames():
            yield samples, rate, len(samples)
        decoding.check_end(recording, name)


class _Decoding:
    """One audio stream, decoded to its end, and what was lost on the way."""

    def __init__(self, container: av.container.InputContainer, stream: av.AudioStream):
        self.container, self.stream = container, stream
        self.kind = container.format.name.split(",")[0]
        self.seconds, self.n_packets = 0.0, 0
        self.n_bytes, self.n_bytes_lost, self.n_zeros = 0, 0, 0
        self.ends_within_packet = False
        self.flac_numbers: list[int] = []  # of the first frame and the last
        self.error = ""  # that ended it

    def frames(self) -> Iterator[tuple[Float[np.ndarray, "samples channels"], int]]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                self.error = _reason(error)
                return
            for frame in self._decode(packet):
                self.seconds += frame.samples / frame.sample_rate
                yield _samples(frame), frame.sample_rate

    def _decode(self, packet: av.Packet) -> list[av.AudioFrame]:
        data = bytes(packet) if packet.size else b""
        try:
            frames = cast(list[av.AudioFrame], packet.decode())
        except av.error.FFmpegError:
            self._lose(data)
            # A packet that begins as a frame of mp3, aac or flac does.
            begins = data[:1] == b"\xff" and data[1:2] >= b"\xe0"
            self.ends_within_packet = begins or packet.is_corrupt
            return []
        if data:
            self.n_packets += 1
            self.n_bytes += len(data)
            if self.stream.codec_context.name == "flac" and data[:2] == b"\xff\xf8":
                self.flac_numbers = [*self.flac_numbers[:1], _flac_number(data)]
            # Whole wav and caf files of unknown length end with a packet that is marked so, too.
            self.ends_within_packet = packet.is_corrupt and self.kind not in ("wav", "caf")
            self.n_bytes_lost += self.n_zeros
            self.n_zeros = 0
        return frames

    def _lose(self, data: bytes) -> None:
        """Counts what does not decode, unless it is a tag between joined files, or padding."""
        if data.startswith((b"ID3", b"TAG", b"APETAGEX")):
            return
        self.n_bytes += len(data)
        if not data.strip(b"\0"):
            self.n_zeros += len(data) if self.n_packets else 0  # lost if sound follows
            return
        self.n_bytes_lost += len(data)

    def check_end(self, recording: Recording, name: str) -> None:
        """Refuses or warns, by what was decoded."""
        if recording.missing:
            raise _truncated(name, f"it lacks {recording.missing}")
        if self.error:
            raise _truncated(name, f"after {self.seconds:.3f} s: {self.error}")
        if self.ends_within_packet:
            raise _truncated(name, f"it ends within a packet, after {self.seconds:.3f} s")
        frames, size = mp3_length(recording.file) if self.kind == "mp3" else (0, 0)
        if size > recording.file.size:
            raise _truncated(
                name, f"its header says {size} bytes and it holds {recording.file.size}"
            )
        if frames - self.n_packets > 1:  # some count the header, too
            each = self.seconds / max(self.n_packets, 1)
            _refuse_short(name, frames * each, self.n_packets * each)
        said, lost = self._said_seconds(recording), 0.0
        if said > self.seconds + (_ROUNDING if self.kind in _STORES_EXACT_LENGTH else _SLACK):
            if self.kind not in _LOSES_SILENTLY:
                _refuse_short(name, said, self.seconds)
            lost = said - self.seconds
        whole = max(said, self.seconds)
        lost = max(lost, whole * self.n_bytes_lost / max(self.n_bytes, 1))
        if self.flac_numbers:  # frames that were lost leave a gap in the numbers of the others
            announced = self.flac_numbers[-1] - self.flac_numbers[0] + 1
            lost = max(lost, whole * (1 - self.n_packets / max(announced, 1)))
        if lost > MAX_LOST * whole:
            raise ValueError(
                f"{name} is damaged: about {lost:.3g} s of {whole:.3g} s cannot be decoded. Get a "
                f"sound copy, or re-encode it to keep what is there."
            )
        if lost:
            warnings.warn(
                f"{name} is damaged: about {lost:.2g} s of {whole:.3g} s could not be decoded and "
                f"is left out.",
                stacklevel=2,
            )

    def _said_seconds(self, recording: Recording) -> float:
        """The length that the file stores; 0 if it stores none (FFmpeg then only guesses)."""
        if self.kind == "matroska":
            own = _clock(self.stream.metadata.get("DURATION", ""))
            alone = len(self.container.streams) == 1 and recording.is_finished
            return own or (alone and (self.container.duration or 0) / av.time_base) or 0.0
        if recording.last_sample and self.stream.time_base is not None:
            start = max(self.stream.start_time or 0, 0)
            if start >= recording.first_end:  # the first page is lost, and so where it began
                start = 0
            return float((recording.last_sample - start) * self.stream.time_base)
        if self.kind in _STORES_LENGTH or (self.kind in _LOSES_SILENTLY and recording.is_finished):
            if self.stream.duration is not None and self.stream.time_base is not None:
                return float(self.stream.duration * self.stream.time_base)
            return (self.container.duration or 0) / av.time_base
        return 0.0


def _samples(frame: av.AudioFrame) -> Float[np.ndarray, "samples channels"]:
    """A frame's samples in [-1, 1]."""
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(frame.samples, -1)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    if data.dtype.kind == "i":
        return data.astype(np.float32) / np.float32(2.0 ** (8 * data.dtype.itemsize - 1))
    return data.astype(np.float32)


def _flac_number(frame: bytes) -> int:
    """The number of a frame among frames of one size (RFC 9639, section 9.1.5)."""
    n_bytes = 8 - (frame[4] ^ 0xFF).bit_length()  # as in UTF-8
    number = frame[4] & 0x7F >> n_bytes
    for byte in frame[5 : 4 + n_bytes]:
        number = number << 6 | byte & 0x3F
    return number


def _clock(text: str) -> float:
    """Seconds of "00:00:05.008000000"; 0 of anything else."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _unreadable(name: str, reason: str) -> ValueError:
    return ValueError(
        f"{name} cannot be read as audio ({reason.rstrip('. ')}): it is damaged, truncated or not "
        f"audio. Give a file such as wav, flac, mp3, ogg, m4a, mp4, webm or wma."
    )


def _truncated(name: str, reason: str) -> ValueError:
    return ValueError(
        f"{name} is truncated: {reason}. Get the whole file, or re-encode it to keep what is there."
    )


def _refuse_short(name: str, said: float, decoded: float) -> NoReturn:
    raise _truncated(name, f"it says {said:.3f} s and only {decoded:.3f} s can be decoded")
