"""Audio files made by ffmpeg (by PyAV where there is no ffmpeg), and a reference decoding of them."""

import math
import shutil
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

FFMPEG = shutil.which("ffmpeg")
RATE = 44100


@dataclass(frozen=True)
class Recipe:
    """One file: container, encoder, and the options of both."""

    format: str
    codec: str
    seconds: float = 2.0
    rate: int = RATE
    channels: int = 2
    kbps: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    piped: bool = False  # written without seeking back, so that lengths stay open


def plain(format: str, codec: str, **changes) -> Recipe:
    return Recipe(format, codec, **changes)


NO_XING = {"write_xing": "0"}
VBR = {"qscale:a": "2"}
RECIPES = {
    "s16.wav": plain("wav", "pcm_s16le"),
    "u8.wav": plain("wav", "pcm_u8", rate=8000, channels=1),
    "s24.wav": plain("wav", "pcm_s24le"),
    "float.wav": plain("wav", "pcm_f32le"),
    "adpcm.wav": plain("wav", "adpcm_ms"),
    "mp3.wav": plain("wav", "libmp3lame"),
    "piped.wav": plain("wav", "pcm_s16le", piped=True),
    "short.wav": plain("wav", "pcm_s16le", seconds=1.0, rate=16000, channels=1),
    "a.w64": plain("w64", "pcm_s16le"),
    "a.aiff": plain("aiff", "pcm_s16be"),
    "a.au": plain("au", "pcm_s16be"),
    "a.caf": plain("caf", "pcm_s16be"),
    "a.voc": plain("voc", "pcm_u8"),
    "a.flac": plain("flac", "flac"),
    "piped.flac": plain("flac", "flac", piped=True),
    "a.wv": plain("wv", "wavpack"),
    "a.tta": plain("tta", "tta"),
    "xing.mp3": plain("mp3", "libmp3lame"),
    "vbr.mp3": plain("mp3", "libmp3lame", options=VBR),
    "cbr128.mp3": plain("mp3", "libmp3lame", kbps=128, options=NO_XING),
    "cbr64.mp3": plain("mp3", "libmp3lame", kbps=64, options=NO_XING, seconds=1.0),
    "vbr-no-xing.mp3": plain("mp3", "libmp3lame", options=NO_XING | VBR),
    "mono22.mp3": plain("mp3", "libmp3lame", rate=22050, channels=1),
    "a.mp2": plain("mp2", "mp2"),
    "a.aac": plain("adts", "aac"),
    "a.ac3": plain("ac3", "ac3"),
    "vorbis.ogg": plain("ogg", "libvorbis"),
    "mono16.ogg": plain("ogg", "libvorbis", seconds=1.0, rate=16000, channels=1),
    "opus.ogg": plain("ogg", "libopus", rate=48000),
    "mono.opus": plain("ogg", "libopus", seconds=1.0, rate=48000, channels=1),
    "flac.ogg": plain("ogg", "flac"),
    "speex.ogg": plain("ogg", "libspeex", rate=16000, channels=1),
    "a.m4a": plain("ipod", "aac"),
    "faststart.m4a": plain("ipod", "aac", options={"movflags": "+faststart"}),
    "alac.m4a": plain("ipod", "alac"),
    "pieces.mp4": plain("mp4", "aac", options={"movflags": "frag_keyframe+empty_moov"}),
    "pcm.mov": plain("mov", "pcm_s16le"),
    "opus.webm": plain("webm", "libopus", rate=48000),
    "vorbis.webm": plain("webm", "libvorbis"),
    "live.webm": plain("webm", "libopus", rate=48000, piped=True),
    "flac.mka": plain("matroska", "flac"),
    "a.wma": plain("asf", "wmav2"),
    "piped.wma": plain("asf", "wmav2", piped=True),
    "a.avi": plain("avi", "libmp3lame"),
    "a.flv": plain("flv", "libmp3lame"),
    "a.ts": plain("mpegts", "mp2"),
}


def source(recipe: Recipe) -> np.ndarray:
    """A rising tone, another in the second channel, [samples, channels]; all below 4 kHz."""
    t = np.arange(round(recipe.seconds * recipe.rate)) / recipe.rate
    left = 0.4 * np.sin(2 * math.pi * (300 * t + 200 * t**2))
    right = 0.3 * np.sin(2 * math.pi * (1500 * t + 100 * t**2))
    return np.stack([left, right], axis=1)[:, : recipe.channels].astype(np.float32)


def make_all(folder: Path) -> None:
    """Every file of the recipes that an encoder is there for."""
    if FFMPEG is None:
        for name, recipe in RECIPES.items():
            make_with_pyav(folder / name, recipe)
        return
    kinds = {(r.seconds, r.rate, r.channels): r for r in RECIPES.values()}
    inputs, outputs = [], []
    for number, recipe in enumerate(kinds.values()):
        soundfile.write(folder / f"source{number}.wav", source(recipe), recipe.rate)
        inputs += ["-i", folder / f"source{number}.wav"]
    for name, recipe in RECIPES.items():
        number = list(kinds).index((recipe.seconds, recipe.rate, recipe.channels))
        options = {"b:a": f"{recipe.kbps}k"} if recipe.kbps else {}
        options |= recipe.options | ({"seekable": "0"} if recipe.piped else {})
        flags = [word for key, value in options.items() for word in (f"-{key}", value)]
        outputs += ["-map", f"{number}:a", "-f", recipe.format, "-c:a", recipe.codec, *flags]
        outputs += [f"file:{folder / name}"]
    subprocess.run([FFMPEG, "-v", "error", "-y", *inputs, *outputs], check=True)


class Pipe:
    """A file that cannot be sought in."""

    def __init__(self, path: Path):
        self.file = open(path, "wb")  # noqa: SIM115
        self.write = self.file.write


def make_with_pyav(path: Path, recipe: Recipe) -> None:
    """One file; none where PyAV lacks the encoder or cannot drive it."""
    target = Pipe(path) if recipe.piped else str(path)
    options = {key.split(":")[0]: value for key, value in recipe.options.items()}
    try:
        with av.open(target, "w", format=recipe.format, container_options=options) as container:
            stream = container.add_stream(recipe.codec, rate=recipe.rate)
            stream.codec_context.layout = "mono" if recipe.channels == 1 else "stereo"
            stream.codec_context.bit_rate = 1000 * (recipe.kbps or 128)
            samples = source(recipe)
            for start in range(0, len(samples), 1024):
                part = np.ascontiguousarray(samples[start : start + 1024].T)
                frame = av.AudioFrame.from_ndarray(part, "fltp", stream.codec_context.layout.name)
                frame.sample_rate, frame.pts = recipe.rate, start
                frame.time_base = Fraction(1, recipe.rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError):
        path.unlink(missing_ok=True)
    finally:
        if recipe.piped:
            target.file.close()


Sound = tuple[np.ndarray, int]  # [samples, channels] and the rate


def decode_all(paths: list[Path], folder: Path) -> dict[Path, Sound]:
    """What ffmpeg decodes each file to by default (or PyAV, where there is no ffmpeg)."""
    if FFMPEG is None:
        return {path: decode_with_pyav(path) for path in paths}
    inputs, outputs = [], []
    for number, path in enumerate(paths):
        inputs += ["-i", f"file:{path}"]
        outputs += ["-map", f"{number}:a", "-c:a", "pcm_f32le", "-f", "wav"]
        outputs += ["-y", folder / f"decoded{number}.wav"]
    subprocess.run([FFMPEG, "-v", "quiet", *inputs, *outputs], check=True)
    return {
        path: soundfile.read(folder / f"decoded{number}.wav", dtype="float32", always_2d=True)
        for number, path in enumerate(paths)
    }


def decode_with_pyav(path: Path) -> Sound:
    """The first audio stream, every frame converted to the first one's form."""
    parts, rate, layout, form, resampler = [], 0, None, None, None
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if form != (frame.sample_rate, frame.layout.name):
                    form = (frame.sample_rate, frame.layout.name)
                    rate, layout = (rate, layout) if rate else form
                    resampler = av.AudioResampler("fltp", layout, rate)
                parts += [out.to_ndarray() for out in resampler.resample(frame)]
    return np.concatenate(parts, axis=1).T, rate


def need(path: Path) -> Path:
    """The file, or a skipped test where it could not be made."""
    if not path.is_file():
        pytest.skip(f"{path.name} is not made: neither ffmpeg nor PyAV has its encoder here")
    return path
