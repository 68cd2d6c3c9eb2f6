"""What audio files say about themselves: where recordings start in them, and what is missing.

Only lengths and end marks are read here, never samples. Sources: RFC 3533 (Ogg), ISO/IEC 14496-12
(mp4), RFC 8794 and 9559 (EBML, Matroska), Microsoft's ASF specification, Apple's CAF one, APEv2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import Any, Protocol, runtime_checkable

UNKNOWN_SIZE = 0x7FFF0000  # a streaming writer leaves a size this large, or 0, in a RIFF header
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # and STREAMINFO's length, which always comes first
_PAGE = re.compile(b"OggS\0")
_APE = b"APETAGEX"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MP4 = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_EBML, _SEGMENT, _CLUSTER = map(bytes.fromhex, ("1a45dfa3", "18538067", "1f43b675"))


@runtime_checkable
class SeekableFile(Protocol):
    """A binary file that is open for reading."""

    def read(self, size: int = -1, /) -> Any:
        """The next `size` bytes; all that are left with -1."""

    def seek(self, offset: int, whence: int = 0, /) -> Any:
        """Go to `offset`, counted as `whence` says."""

    def tell(self) -> int:
        """The place, in bytes from the start."""


class Section(RawIOBase):
    """Some bytes of a file as a file of their own, without the file's name."""

    def __init__(self, file: SeekableFile, start: int, end: int):
        self.file, self.start, self.size, self.place = file, start, end - start, 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The place, in bytes from the section's start."""
        return self.place

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Go to `offset`, counted as `whence` says, unless that is before the start; the place then."""
        origin = {SEEK_SET: 0, SEEK_CUR: self.place, SEEK_END: self.size}[whence]
        if origin + offset >= 0:  # decoders compare the place; they cannot be told of an error
            self.place = origin + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the place on; how many bytes there were."""
        data = self.read_at(self.place, len(buffer))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on."""
        self.file.seek(self.start + offset)
        return self.file.read(max(0, min(size, self.size - offset)))


@dataclass(frozen=True)
class Recording:
    """One recording of a file that may hold several, joined or chained one after another."""

    file: Section
    missing: str | None = None  # what its container announces and the file does not hold
    is_finished: bool = True  # whether its header was filled in when the writer knew the length
    # Where its only stream ends by its own marks, and the first page of it, in Ogg.
    last_sample: int | None = None
    first_end: int = 0


def recordings(file: SeekableFile) -> list[Recording]:
    """The recordings that a file holds; one unless it is of a kind whose decoders stop at an end."""
    whole = _after_tags(Section(file, 0, file_size(file)))
    head = whole.read_at(0, 16)
    if head[:4] == b"OggS":
        return _ogg(whole)
    if _FLAC.match(head):
        return [Recording(part) for part in _split(whole, list(_find(whole, _FLAC)))]
    if head[4:8] in _MP4:
        return _mp4(whole)
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"AVI "):
        return _riff(whole)
    if head[:4] == b"caff":
        missing = next((m for _, _, m in _chunks(whole, 8, ">4sq", 0) if m), None)
        return [Recording(whole, missing)]
    if head == _W64 or head[:4] in (b"RF64", b"BW64"):
        size = int.from_bytes(whole.read_at(16 if head == _W64 else 20, 8), "little")
        lacks = size + (0 if head == _W64 else 8) - whole.size
        return [Recording(whole, f"{lacks} of its bytes" if lacks > 0 and size < 2**62 else None)]
    if head == b"Creative Voice F":
        return [_voc(whole)]
    if head == _ASF:
        return [_asf(whole)]
    if head[:4] == _EBML:
        return [_matroska(whole)]
    return [Recording(_before_tags(whole))]


def file_size(file: SeekableFile) -> int:
    """Bytes in a file."""
    file.seek(0, SEEK_END)
    return file.tell()


def mp3_length(file: Section) -> tuple[int, int]:
    """Frames and bytes that the Xing, Info or VBRI header of an mp3 announces; 0 where it does not."""
    head = file.read_at(0, 64)
    if not (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return 0, 0
    if head[36:40] == b"VBRI":
        return int.from_bytes(head[50:54], "big"), int.from_bytes(head[46:50], "big")
    place = max(head.find(b"Xing", 4, 44), head.find(b"Info", 4, 44))
    if place < 0 or not head[place + 7] & 1:
        return 0, 0
    frames, size = struct.unpack_from(">II", head, place + 8)
    return frames, size if head[place + 7] & 2 else 0


def wav_sizes(file: Section) -> tuple[int, int]:
    """Bytes of samples that a wav announces, and those behind them, within its size, that are no chunk."""
    head = file.read_at(0, 12)
    end = 8 + int.from_bytes(head[4:8], "little")
    end = file.size if end <= 44 else end  # of a header alone: it was never filled in
    if head[:4] != b"RIFF" or head[8:] != b"WAVE" or end > file.size:
        return 0, 0
    start, announced = 12, None
    while start + 8 <= end:
        kind, size = struct.unpack("<4sI", file.read_at(start, 8))
        after = start + 8 + size + size % 2
        is_chunk = kind.isascii() and kind.decode().isprintable() and after <= end + 1
        if announced is not None and not is_chunk:
            return announced, end - start
        announced = size if kind == b"data" else announced
        start = after
    return announced or 0, 0


def _after_tags(file: Section) -> Section:
    """The file without the ID3v2 and APE tags in front, which taggers put before any format."""
    start = 0
    while True:
        head = file.read_at(start, 16)
        if head[:3] == b"ID3" and len(head) >= 10:
            size = sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
            start += size + (20 if head[5] & 16 else 10)
        elif head[:8] == _APE:
            start += int.from_bytes(head[12:16], "little") + 32
        else:
            return Section(file.file, file.start + start, file.start + max(start, file.size))


def _before_tags(file: Section) -> Section:
    """The file without the ID3v1 and APE tags behind, pictures in which would pass for damage."""
    end = file.size
    while True:
        foot = file.read_at(max(0, end - 128), 128)
        if foot[:3] == b"TAG" and len(foot) == 128:
            end -= 128
        elif foot[-32:-24] == _APE:
            size = max(32, int.from_bytes(foot[-20:-16], "little"))
            end -= size + (32 if foot[-9] & 128 else 0)  # which says that it has a header, too
        else:
            return Section(file.file, file.start, file.start + max(0, end))


def _split(file: Section, starts: list[int]) -> list[Section]:
    ends = [*starts[1:], file.size]
    return [
        Section(file.file, file.start + start, file.start + end)
        for start, end in zip(starts, ends, strict=True)
    ]


def _find(file: Section, magic: re.Pattern[bytes], start: int = 0) -> Iterator[int]:
    """Every place of some bytes, at most 8 of them."""
    size = 2**12
    while start < file.size:
        data = file.read_at(start, size)
        size = min(2 * size, 2**20)
        if found := magic.search(data):
            yield start + found.start()
            start += found.end()
        else:
            start += max(1, len(data) - 7)


def _ogg(file: Section) -> list[Recording]:
    """The links of a chain. Each stream of a link begins and ends with a page marked so."""
    starts, links = [0], [_Link()]
    cut: str | None = None
    offset: int | None = 0
    while offset is not None and not cut:
        page = file.read_at(offset, 27 + 255)
        if len(page) < 27 or not _PAGE.match(page):
            # If this was the first page with samples, it ended somewhere above 0.
            links[-1].first_end = links[-1].first_end or 1
            offset = next(_find(file, _PAGE, offset + 1), None)
            continue
        is_first, n_segments = bool(page[5] & 2), page[26]
        if is_first and links[-1].has_data:  # a page that begins a stream, after others
            starts.append(offset)
            links.append(_Link())
        links[-1].add(page)
        offset += 27 + n_segments + sum(page[27 : 27 + n_segments])
        cut = f"{offset - file.size} bytes of its last page" if offset > file.size else None
    missing = ["its end-of-stream mark" if link.unfinished else None for link in links]
    return [
        Recording(part, lacks, last_sample=link.last_sample, first_end=link.first_end)
        for part, lacks, link in zip(
            _split(file, starts), [*missing[:-1], cut or missing[-1]], links, strict=True
        )
    ]


class _Link:
    """The streams of one link, from their pages."""

    def __init__(self) -> None:
        self.ends: dict[bytes, int] = {}  # the last granule position of each stream
        self.first_end = 0  # the first granule position above 0, which headers have
        self.unfinished: set[bytes] = set()
        self.has_data = False

    def add(self, page: bytes) -> None:
        flags, serial = page[5], page[14:18]
        granule = int.from_bytes(page[6:14], "little", signed=True)  # -1 where no packet ends
        self.ends[serial] = max(granule, self.ends.get(serial, 0))
        self.first_end = self.first_end or max(granule, 0)
        self.has_data = self.has_data or not flags & 2
        (self.unfinished.discard if flags & 4 else self.unfinished.add)(serial)

    @property
    def last_sample(self) -> int | None:
        return next(iter(self.ends.values())) if len(self.ends) == 1 else None


def _chunks(
    file: Section, start: int, header: str, counted: int
) -> Iterator[tuple[int, bytes, str | None]]:
    """Offset and kind of chunks (kind, size), one after another, and what the last one lacks.

    `counted` is how many bytes of the header the size includes. Below 0 it says "to the end".
    """
    n_header = struct.calcsize(header)
    while len(head := file.read_at(start, n_header)) == n_header:
        kind, size = struct.unpack(header, head)
        end = start + n_header - counted + size
        if size < 0 or not kind.strip(b"\0") or end <= start:
            return
        lacks = f"{end - file.size} bytes of its {_shown(kind)} chunk" if end > file.size else None
        yield start, kind, lacks
        start = end


def _shown(kind: bytes) -> str:
    return f"'{kind.decode()}'" if kind.isascii() and kind.decode().isprintable() else "data"


def _mp4(file: Section) -> list[Recording]:
    """Boxes. A second `ftyp` begins another recording; without `moov` nothing can be decoded."""
    starts, offset, missing, has_index = [0], 0, None, False
    while len(head := file.read_at(offset, 16)) >= 8 and not missing:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        size = size or file.size - offset
        if size < 8 or not kind.isascii() or not kind.decode().isprintable():
            break  # no box, but something that was put behind them
        if kind == b"ftyp" and offset:
            starts.append(offset)
        has_index = has_index or kind == b"moov"
        offset += size
        if offset > file.size:
            missing = f"{offset - file.size} bytes of its {_shown(kind)} box"
    if not has_index:
        missing = f"{missing or 'its end'}, and its index ('moov' box)"
    parts = _split(file, starts)
    return [*map(Recording, parts[:-1]), Recording(parts[-1], missing)]


def _riff(file: Section) -> list[Recording]:
    """Wav or avi. A wav behind a wav is another recording; an avi may go on in further RIFFs."""
    starts: list[int] = []
    missing, is_finished = None, True
    for start, kind, lacks in _riff_chunks(file):
        if kind == b"WAVE" or not starts:
            starts.append(start)
        missing, is_finished = lacks, lacks != "unknown"
    parts = _split(file, starts)
    last = Recording(parts[-1], missing if is_finished else None, is_finished)
    return [*map(Recording, parts[:-1]), last]


def _riff_chunks(file: Section) -> Iterator[tuple[int, bytes, str | None]]:
    start = 0
    while (head := file.read_at(start, 12))[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        end = start + 8 + size + size % 2
        if size == 0 or size >= UNKNOWN_SIZE:
            yield start, head[8:], "unknown"
            return
        yield start, head[8:], f"{end - file.size} of its bytes" if end - 1 > file.size else None
        start = end


def _voc(file: Section) -> Recording:
    """Blocks of a type and a size of three bytes each, ended by a block of type 0."""
    offset = int.from_bytes(file.read_at(20, 2), "little")
    while (head := file.read_at(offset, 4)) and head[0]:
        offset += 4 + int.from_bytes(head[1:], "little")
    return Recording(file, None if head else "its end mark")


def _asf(file: Section) -> Recording:
    """Objects. The header of a broadcast was never filled in."""
    missing = next((m for _, _, m in _chunks(file, 0, "<16sq", 24) if m), None)
    header = file.read_at(0, 2**16)
    properties = header.find(_ASF_FILE_PROPERTIES)
    is_broadcast = 0 <= properties < len(header) - 88 and header[properties + 88] & 1
    return Recording(file, None if is_broadcast else missing, not is_broadcast)


def _matroska(file: Section) -> Recording:
    """EBML elements. What is recorded live has a segment, and often clusters, of unknown size."""
    offset, is_finished, past_segment = 0, True, False
    while (head := file.read_at(offset, 12)) and not (past_segment and head[:4] != _EBML):
        n_id = 9 - head[0].bit_length()
        n_size = 9 - head[n_id].bit_length() if n_id < len(head) else 1
        if n_id > 4 or n_size > 8:
            break  # no element
        element, size = head[:n_id], int.from_bytes(head[n_id : n_id + n_size], "big")
        unknown = (1 << 7 * n_size) - 1
        past_segment = element == _SEGMENT and size & unknown != unknown
        offset += n_id + n_size
        if size & unknown != unknown:
            offset += size & unknown
        elif element in (_SEGMENT, _CLUSTER):
            is_finished = False  # and the elements that it holds come next
        else:
            break
        if offset > file.size:
            return Recording(file, f"{offset - file.size} of its bytes", is_finished)
    return Recording(file, None, is_finished)
