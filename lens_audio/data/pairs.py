"""Pairs of prompts to patch between, whose recordings and questions may be of unequal length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_audio.inputs import AudioPrompt

FITS = ("pad", "crop", "group")


class Group(NamedTuple):
    """Positions in either prompt that stand for each other."""

    clean: Bool[Tensor, "row pos"]
    corrupted: Bool[Tensor, "row other_pos"]

    @property
    def is_averaged(self) -> bool:
        """Whether some row has other numbers of positions in both, so that a mean is patched."""
        return not torch.equal(self.clean.sum(1), self.corrupted.sum(1))


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """A clean and a corrupted prompt, and what lines up between them. Made by `pair`.

    Functions of `analysis` that take a clean and a corrupted prompt take a pair in the place of
    both: `sweep(model, pair, site="resid_pre", metric=metric)`.
    """

    clean: AudioPrompt
    corrupted: AudioPrompt
    fit: str | None = None  # None: position by position, as the prompts are
    window: float | int | None = None  # seconds, of a "group" pair
    groups: Mapping[str, Group] = field(default_factory=dict)  # of a "group" pair, in reading order
    # Of those, the time windows, in frames of the encoder; rows are clips, flat in row order.
    frames: Mapping[str, Group] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        groups = f", groups={list(self.groups)}, averaged={self.averaged}" if self.groups else ""
        return f"Pair(clean={self.clean!r}, corrupted={self.corrupted!r}, fit={self.fit!r}{groups})"

    def to(self, device: str | torch.device) -> "Pair":
        """The same pair with the prompts' tensors on `device`."""
        return replace(self, clean=self.clean.to(device), corrupted=self.corrupted.to(device))

    @property
    def windows(self) -> list[str]:
        """The groups that are windows of time."""
        return list(self.frames)

    @property
    def averaged(self) -> list[str]:
        """The groups of which a mean is patched, because their lengths differ."""
        both = [group for group in self.groups if self.groups[group].is_averaged]
        return both + [w for w in self.frames if self.frames[w].is_averaged and w not in both]


def pair(
    clean: AudioPrompt, corrupted: AudioPrompt, fit: str = "pad", *, window: float | int = 0.25
) -> Pair:
    """Line up two prompts, row by row, so that activations can be patched between them.

    Args:
        clean, corrupted: as many rows, and in each row as many clips.
        fit: "pad" adds zero samples to the end of each shorter clip, "crop" cuts the longer one;
            both leave prompts of one shape, whose questions need as many tokens. The encoder hears
            the silence that "pad" adds: compare with prompts padded alike, not with the original.
            "group" leaves the prompts as they are and lines up windows of the audio, the text
            before and after it, and the last position. A group with as many positions in both is
            patched position by position, of another every position gets the mean of the source's.
        window: seconds of a time window of "group". Window i of one prompt goes with window i of
            the other; the last one that all recordings have reaches to the end of each. A window
            is named by its times, the last one to the end of the longest recording.

    Raises:
        ValueError: for another `fit`; prompts of other numbers of rows or clips; with "pad" and
            "crop", prompts made from tensors, or questions of unequal length; with "group",
            windows shorter than an audio token, or text that only one of the prompts has.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be 'pad', 'crop' or 'group', not {fit!r}")
    if len(clean) != len(corrupted):
        raise ValueError(f"{len(clean)} clean prompts and {len(corrupted)} corrupted ones")
    for row in range(len(clean)):
        n_clips = [len(prompt.clips_of(row)) for prompt in (clean, corrupted)]
        if n_clips[0] != n_clips[1]:
            raise ValueError(
                f"row {row} has {n_clips[0]} clips in clean, {n_clips[1]} in corrupted"
            )
    if fit == "group":
        return _grouped(clean, corrupted, window)
    clean, corrupted = _of_one_length(clean, corrupted, fit)
    for name in ("attention_mask", "audio_mask"):
        masks = [getattr(prompt, name).cpu() for prompt in (clean, corrupted)]
        if not torch.equal(*masks):
            n_text = [_text_of(prompt).sum(1).tolist() for prompt in (clean, corrupted)]
            raise ValueError(
                f"the texts do not line up: they have {n_text[0]} tokens in the rows of clean, "
                f"{n_text[1]} in corrupted. Write questions of one length, or take fit='group'"
            )
    return Pair(clean, corrupted, fit)


def _of_one_length(
    clean: AudioPrompt, corrupted: AudioPrompt, fit: str
) -> tuple[AudioPrompt, AudioPrompt]:
    """Both prompts with each pair of clips as long as the longer ("pad") or the shorter one."""
    for name, prompt in (("clean", clean), ("corrupted", corrupted)):
        if prompt.texts is None or (prompt.n_clips and prompt.waveforms is None):
            raise ValueError(
                f"the {name} prompt was made from tensors, so it has no recording to {fit}: make "
                "it with model.prompt(question, audio), or take fit='group'"
            )
    if clean.sampling_rate != corrupted.sampling_rate:
        raise ValueError(
            f"clean has {clean.sampling_rate} samples a second, corrupted "
            f"{corrupted.sampling_rate}: make both with one model"
        )
    choose: Callable[[int, int], int] = max if fit == "pad" else min
    waves = zip(clean.waveforms or [], corrupted.waveforms or [], strict=True)
    lengths = [choose(len(one), len(other)) for one, other in waves]
    return _with_lengths(clean, lengths), _with_lengths(corrupted, lengths)


def _with_lengths(prompt: AudioPrompt, lengths: Sequence[int]) -> AudioPrompt:
    """The prompt with its clips cut to so many samples, or filled up with zeros."""
    waves = prompt.waveforms or []
    if [len(wave) for wave in waves] == list(lengths):
        return prompt
    pairs = zip(waves, lengths, strict=True)
    return prompt.remade(
        prompt.texts or (), [np.pad(w[:n], (0, max(0, n - len(w)))) for w, n in pairs]
    )


Windows = list[list[Int[Tensor, " _"]]]  # of each token, by row and clip


def _grouped(clean: AudioPrompt, corrupted: AudioPrompt, seconds: float | int) -> Pair:
    """The prompts as they are, with their groups."""
    both = (clean, corrupted)
    n_clips = {len(prompt.clips_of(row)) for prompt in both for row in range(len(prompt))}
    if len(n_clips) > 1:
        raise ValueError(f"rows have {sorted(n_clips)} clips; a group must be in every row")
    windows = [_windows(prompt, seconds) for prompt in both]
    names: list[list[str]] = []  # of the windows of each clip
    for clip in range(n_clips.pop()):
        in_rows = [row[clip] for side in windows for row in side]
        n_shared = min(map(_n_unbroken, in_rows))
        for of_token in in_rows:
            of_token.clamp_(max=n_shared - 1)
        end = max(p.clip_seconds(p.clips_of(row)[clip]) for p in both for row in range(len(p)))
        edges = [*(i * seconds for i in range(n_shared)), end]
        names.append([f"{a:.2f}-{b:.2f} s" for a, b in pairwise(edges)])
    if len(names) > 1:
        names = [[f"clip {i}, {name}" for name in clip] for i, clip in enumerate(names)]
    texts = _text_names(len(names))
    ordered = [texts[0]]
    for clip_names, text in zip(names, texts[1:], strict=True):
        ordered += [*clip_names, text]
    ordered.append("last")
    numbers = [_numbered(p, w, names) for p, w in zip(both, windows, strict=True)]
    frames = [_numbered_frames(p, w, names) for p, w in zip(both, windows, strict=True)]
    groups = {name: Group(*(n == i for n in numbers)) for i, name in enumerate(ordered)}
    in_encoder = [name for clip_names in names for name in clip_names]
    return Pair(
        clean, corrupted, "group", seconds, _without_empty(groups),
        {name: Group(*(n == ordered.index(name) for n in frames)) for name in in_encoder},
    )  # fmt: skip


def _windows(prompt: AudioPrompt, seconds: float | int) -> Windows:
    rows: Windows = []
    for row in range(len(prompt)):
        clips = prompt.clips_of(row)
        if prompt.mel_lengths is None or not clips:
            rows.append([])
            continue
        counts = prompt.timing.n_tokens(prompt.mel_lengths).tolist()
        of_clips = [sum(counts[one] for one in prompt.windows_of(clip)) for clip in clips]
        rows.append(list(prompt.audio_windows(row, seconds).split(of_clips)))
    return rows


def _n_unbroken(windows: Int[Tensor, " token"]) -> int:
    """Windows from the first on, none of them empty."""
    return max(1, int((windows.bincount() > 0).long().cumprod(0).sum()))


def _text_names(n_clips: int) -> list[str]:
    if n_clips == 0:
        return ["text before last"]
    between = [f"text between clips {i} and {i + 1}" for i in range(n_clips - 1)]
    return ["text before", *between, "text after"]


def _text_of(prompt: AudioPrompt) -> Bool[Tensor, "row pos"]:
    return (prompt.attention_mask & ~prompt.audio_mask).cpu()


def _numbered(
    prompt: AudioPrompt, windows: Windows, names: list[list[str]]
) -> Int[Tensor, "row pos"]:
    """Of every position the number of its group in reading order; -1 for padding."""
    numbers = torch.full(prompt.tokens.shape, -1)
    text, real = _text_of(prompt), prompt.attention_mask.cpu()
    for row, clips in enumerate(windows):
        of_text = torch.zeros(prompt.tokens.shape[1], dtype=torch.long)
        places = prompt.audio_positions(row).cpu().split([len(clip) for clip in clips])
        first = 1
        for clip, clip_places, clip_names in zip(clips, places, names, strict=True):
            numbers[row, clip_places] = first + clip
            first += len(clip_names) + 1
            of_text[clip_places[-1] :] = first - 1
        numbers[row, text[row]] = of_text[text[row]]
        numbers[row, real[row].nonzero()[-1]] = first
    return numbers


def _numbered_frames(
    prompt: AudioPrompt, windows: Windows, names: list[list[str]]
) -> Int[Tensor, "spectrogram frame"]:
    """Of every frame of the encoder's blocks, by spectrogram, the number of its window's group."""
    if prompt.mel is None or prompt.mel_lengths is None:
        return torch.zeros(0, 0, dtype=torch.long)
    timing = prompt.timing
    numbers = torch.full((len(prompt.mel), timing.n_frames(prompt.mel.shape[2])), -1)
    for row, clips in enumerate(windows):
        first = 1
        for clip, of_token, clip_names in zip(prompt.clips_of(row), clips, names, strict=True):
            for one in prompt.windows_of(clip):
                length = int(prompt.mel_lengths[one])
                n_frames, n_tokens = timing.n_frames(length), timing.n_tokens(length)
                token = timing.tokens_of(torch.arange(n_frames)).clamp(max=n_tokens - 1)
                numbers[one, :n_frames] = first + of_token[token]
                of_token = of_token[n_tokens:]
            first += len(clip_names) + 1
    return numbers


def _without_empty(groups: dict[str, Group]) -> dict[str, Group]:
    """Without the groups that no row has.

    Raises:
        ValueError: for a group that some rows have and others not.
    """
    kept = {}
    for name, group in groups.items():
        has = torch.stack([mask.any(1) for mask in group])
        if bool(has.all()):
            kept[name] = group
        elif bool(has.any()):
            side, row = (~has).nonzero()[0].tolist()
            raise ValueError(
                f"row {row} of {group._fields[side]} has no {name!r}, which other prompts have: "
                "nothing stands for it there"
            )
    return kept
