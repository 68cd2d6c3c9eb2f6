"""Positions to sweep over: windows of time, groups of tokens, and the masks of what was asked for."""

from torch import Tensor

from lens_audio.analysis.alignment import Alignment
from lens_audio.analysis.cells import Positions, Site, position_masks
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt


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


# These act where they stand, so a head's cell patches the last position alone.
AT_LAST = ("q", "rot_q", "z", "result", "pattern", "attn_scores")
KINDS = ("window", "head", "position", "group")


def positions_by(
    kind: str, site: str, prompt: AudioPrompt | Pair, window: float | int = 0.25
) -> tuple[Positions, str]:
    """The `positions` of a usual sweep, and in words what one of its cells patches.

    Args:
        kind: "window" (time windows of the audio), "head", "position" or "group" (`token_groups`).
        site: as in `sweep`; in the encoder, windows are of its frames.
        prompt: the clean one, or a pair.
        window: seconds; a "group" pair has its own.

    Raises:
        ValueError: for another kind, or windows or positions that this prompt or pair does not have.
    """
    in_encoder = site.startswith("audio_encoder.")
    layer = "" if site == "audio_embed" else "one layer and "
    if isinstance(prompt, Pair):
        if prompt.fit == "group" and kind == "window":
            return prompt.windows, f"{layer}{prompt.window:g} s of the recording"
        if prompt.fit == "group" and kind == "position":
            raise ValueError("the positions of a 'group' pair do not correspond one by one")
        prompt = prompt.clean
    if kind == "window":
        windows = time_windows(prompt, window)
        if in_encoder:
            first = int(prompt.audio_positions(0)[0])
            windows = {name: prompt.timing.frames_of(p - first) for name, p in windows.items()}
        return windows, f"{layer}{window:g} s of the recording"
    if kind == "position":
        frame = prompt.timing.conv_stride * prompt.seconds_per_frame
        return "each", f"{layer}{f'{1000 * frame:g} ms' if in_encoder else 'one position'}"
    if kind == "group":
        return token_groups(prompt), f"{layer}one group of positions"
    if kind != "head":
        raise ValueError(f"no sweep is by {kind!r}; there are {', '.join(KINDS)}")
    if site in AT_LAST:
        return "last", "one head at the last position"
    return "all", "one head at all positions"


def token_groups(prompt: AudioPrompt) -> dict[str, str]:
    """The groups every prompt with audio has: "audio", "text" and "last"."""
    return {"audio": "audio", "text": "text", "last": "last"}


def sweep_masks(
    site: Site,
    name: str,
    positions: Positions | None,
    prompt: AudioPrompt,
    alignment: Alignment | None,
) -> tuple[dict[str, Tensor], str | None]:
    """Masks over the base prompt's positions, or the encoder's frames, and the axis they span.

    Args:
        name: the site's, as it was asked for.
        positions: None for all: of a prompt "each", of a "group" pair its groups.
        alignment: of a "group" pair.

    Raises:
        ValueError: for positions or groups that do not exist, or that this site does not have.
    """
    if site.in_encoder and prompt.mel is None:
        raise ValueError("the encoder's sites need prompts with audio")
    if alignment is not None:
        masks, axis = alignment.cells(positions, audio_only=name == "audio_embed")
    elif site.in_encoder and prompt.mel is not None:
        labels = prompt.frame_labels()
        return position_masks("each" if positions is None else positions, None, labels, len(labels))
    else:
        length = prompt.tokens.shape[1]
        if positions is None or (isinstance(positions, str) and positions == "each"):
            positions = "each"
            if name == "audio_embed":
                positions = {str(int(p)): [int(p)] for p in prompt.audio_positions(0)}
        masks, axis = position_masks(positions, prompt, [str(i) for i in range(length)], length)
    audio = prompt.audio_mask.cpu()
    if name == "audio_embed" and any(bool((m & ~audio).any()) for m in masks.values()):
        raise ValueError("audio_embed is written at audio positions only; select among them")
    return masks, axis
