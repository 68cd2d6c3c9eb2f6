"""Positions to sweep over: windows of time, groups of tokens, and the masks of what was asked for."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_audio.analysis.patching.alignment import Alignment
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Positions, Site, TokenSequence, check_prompt_positions, select

Masks = dict[str, Bool[Tensor, "#example pos"]]
# One selection, "each", or selections by name.
SweptPositions = Positions | Mapping[str, Positions]


def time_windows(prompt: AudioPrompt, seconds: float | int, row: int = 0) -> dict[str, Tensor]:
    """Audio positions by consecutive windows of so many seconds, labelled "0.0-0.5 s".

    All rows of a batch must have the audio at the same positions; `row` tells the times.

    Raises:
        ValueError: for windows shorter than a token, or a prompt without audio or with several clips.
    """
    if len(prompt.clips_of(row)) != 1:
        raise ValueError("time windows need a prompt with one clip; select positions by hand")
    of_token, places = prompt.audio_windows(row, seconds), prompt.audio_positions(row)
    if not bool((prompt.audio_mask == prompt.audio_mask[row]).all()):
        raise ValueError("the rows have their audio at different positions; sweep them one by one")
    last = float(prompt.audio_times(row).max())
    windows = {}
    for i in of_token.unique().tolist():
        label = f"{i * seconds:.2f}-{min((i + 1) * seconds, last):.2f} s"
        windows[label] = places[(of_token == i).to(places.device)]
    return windows


def _frames_of(
    places: Int[Tensor, " token"], prompt: AudioPrompt
) -> Int[Tensor, " frame"] | Bool[Tensor, "spectrogram frame"]:
    """The frames of the encoder's blocks that the audio tokens at these positions are made of.

    Numbers where a clip is one spectrogram; else a mask, as each spectrogram has frames of its own.
    """
    assert prompt.mel is not None
    assert prompt.mel_lengths is not None
    if len(prompt.mel) == len(prompt):
        return prompt.timing.frames_of(places - int(prompt.audio_positions(0)[0]))
    chosen = torch.zeros_like(prompt.audio_mask)
    chosen[:, places] = True
    tokens = chosen[prompt.audio_mask].split(prompt.timing.n_tokens(prompt.mel_lengths).tolist())
    mask = torch.zeros(len(prompt.mel), len(prompt.frame_labels()), dtype=torch.bool)
    for of_spectrogram, frames in zip(tokens, mask, strict=True):
        frames[prompt.timing.frames_of(of_spectrogram.nonzero().flatten())] = True
    return mask


# These act where they stand, so a head's cell patches the last position alone.
AT_LAST = ("q", "rot_q", "z", "result", "pattern", "attn_scores")
KINDS = ("window", "head", "position", "group")


def positions_by(
    kind: str, site: str, prompt: AudioPrompt | Pair, window: float | int = 0.25
) -> tuple[SweptPositions, str]:
    """The `positions` of a usual sweep, and in words what one of its cells patches.

    Args:
        kind: "window" (time windows of the audio), "head", "position" or "group" (`token_groups`).
        site: as in `sweep`; in the encoder, windows are of its frames.
        prompt: the clean one, or a pair.
        window: seconds; a "group" pair has its own.

    Raises:
        ValueError: for another kind, or windows or positions that this prompt or pair does not have.
    """
    where = Site.of(site)
    in_encoder = where.in_block().in_encoder
    layer = "one layer and " if where.is_in_blocks else ""
    if isinstance(prompt, Pair):
        if prompt.fit == "group" and kind == "window":
            return prompt.windows, f"{layer}{prompt.window:g} s of the recording"
        if prompt.fit == "group" and kind == "position":
            raise ValueError("the positions of a 'group' pair do not correspond one by one")
        prompt = prompt.clean
    if kind == "window":
        windows = time_windows(prompt, window)
        if in_encoder:
            windows = {name: _frames_of(places, prompt) for name, places in windows.items()}
        return windows, f"{layer}{window:g} s of the recording"
    if kind == "position":
        frame = prompt.timing.conv_stride * prompt.seconds_per_frame
        return "each", f"{layer}{f'{1000 * frame:g} ms' if in_encoder else 'one position'}"
    if kind == "group":
        return token_groups(prompt), f"{layer}one group of positions"
    if kind != "head":
        raise ValueError(f"no sweep is by {kind!r}; there are {', '.join(KINDS)}")
    if not in_encoder and where.short in AT_LAST:
        return "last", "one head at the last position"
    return "all", "one head at all positions"


def token_groups(prompt: AudioPrompt) -> dict[str, str]:
    """The groups every prompt with audio has: "audio", "text" and "last"."""
    return {"audio": "audio", "text": "text", "last": "last"}


def sweep_masks(
    site: Site,
    positions: SweptPositions,
    prompt: AudioPrompt,
    alignment: Alignment | None,
) -> tuple[Masks, str | None]:
    """Masks over the base prompt's positions, or the encoder's frames, and the axis they span.

    Args:
        positions: None for all: of a prompt "each", of a "group" pair its groups.
        alignment: of a "group" pair.

    Raises:
        ValueError: for positions or groups that do not exist, or that this site does not have.
    """
    if site.in_encoder and prompt.mel is None:
        raise ValueError("the encoder's sites need prompts with audio")
    audio_only = site.name == "audio_embed"
    if audio_only and isinstance(positions, str) and positions == "all":
        positions = "audio"
    if alignment is not None:
        masks, axis = alignment.cells(positions, audio_only)
    elif positions is None or (isinstance(positions, str) and positions == "each"):
        masks, axis = _each(site, prompt)
    elif isinstance(positions, Mapping):
        if not positions:
            raise ValueError("no groups of positions were given")
        masks, axis = {str(n): mask_of(site, p, prompt) for n, p in positions.items()}, "group"
    else:
        masks, axis = {"": mask_of(site, positions, prompt)}, None
    audio = prompt.audio_mask.cpu()
    if audio_only and any(bool((m & ~audio).any()) for m in masks.values()):
        raise ValueError("audio_embed is written at audio positions only; select among them")
    return masks, axis


def mask_of(site: Site, positions: Positions, prompt: AudioPrompt) -> Bool[Tensor, "#example pos"]:
    """One selection as a mask over a prompt's positions, or over the frames of its clips.

    Raises:
        ValueError: for a selection of nothing in some row, or positions that do not exist.
    """
    where = site.in_block()
    positions = check_prompt_positions(positions, where)
    if where.in_encoder:
        n_spectrograms = 0 if prompt.mel is None else len(prompt.mel)
        sequence = TokenSequence.untold(len(prompt.frame_labels()), n_spectrograms)
    else:
        sequence = TokenSequence.of(prompt)
    mask = select(positions, sequence)
    selects = mask.any(1)
    if where.in_encoder and len(selects) > 1:  # a row's spectrograms together
        rows = [prompt.spectrograms_of(row) for row in range(len(prompt))]
        selects = torch.stack([selects[row.start : row.stop].any() for row in rows if len(row)])
    if not bool(selects.all()):
        raise ValueError(
            "a selection of positions is empty in some row; each must select one or more"
        )
    return mask


def _each(site: Site, prompt: AudioPrompt) -> tuple[Masks, str]:
    """A mask a position, by its number or, of a frame, its time."""
    if site.name == "audio_embed":
        return {
            str(p): mask_of(site, p, prompt) for p in prompt.audio_positions(0).tolist()
        }, "group"
    in_encoder = site.in_block().in_encoder
    labels = prompt.frame_labels() if in_encoder else map(str, range(prompt.tokens.shape[1]))
    labels = list(labels)
    each = torch.eye(len(labels), dtype=torch.bool)
    return {label: each[i][None] for i, label in enumerate(labels)}, "position"
