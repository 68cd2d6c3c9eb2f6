"""What one head looks at: every token, with the audio folded to time."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Real

from lens_audio.inputs import AudioPrompt
from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import INK, MAGNITUDE, clipped, styled, text

MOST_SATURATED = 0.02  # of the cells: a sink that takes nearly all attention would hide the rest
AXIS: dict[str, Any] = {
    "type": "category",  # as many names as have room
    "tickfont": {"size": 11},
    "showgrid": False,
    "linecolor": INK,
    "automargin": True,
    "title_standoff": 10,
}


@dataclass(frozen=True)
class Entry:
    """A row or column of the map: one text token, or a stretch of audio."""

    name: str
    start: int  # positions from start to stop, the last one not included
    stop: int
    is_audio: bool


def token_attention(
    pattern: Real[Array, "query key"] | pd.DataFrame,
    prompt: AudioPrompt,
    *,
    row: int = 0,
    windows: int = 24,
    audio: str = "mean",
) -> go.Figure:
    """One head's attention from every token to every earlier one; each clip is some time windows.

    A window's column is the mean over its audio tokens, so that it compares with a column of one
    text token, or their sum, with which a row sums to 100 %; its row is the mean over them. Padding is
    left out. The colour scale ends where 2 % of the cells are beyond it, as the first token's
    often are. The figure says both.

    Args:
        pattern: of this row of the prompt, as `analysis.head_pattern` gives it.
        row: the prompt's row.
        windows: into how many each clip is folded, at most.
        audio: what an audio column is: the mean of its tokens, or their sum.

    Raises:
        ValueError: for a pattern of another length than the prompt, no window, or another `audio`.
    """
    n_positions = prompt.tokens.shape[1]
    shares = as_array(pattern, "query", "key")
    if shares.shape != (n_positions, n_positions):
        raise ValueError(
            f"a pattern of shape {shares.shape} for a prompt of {n_positions} positions"
        )
    if windows < 1:
        raise ValueError(f"windows={windows}; fold the audio into at least one")
    if audio not in ("mean", "sum"):
        raise ValueError(
            f"audio={audio!r}; an audio column is the 'mean' or the 'sum' of its tokens"
        )
    entries = _entries(prompt, row, windows)
    sums = _folded(shares, entries)
    n_tokens = np.array([entry.stop - entry.start for entry in entries])
    z = sums / n_tokens.astype(np.float32) if audio == "mean" else sums
    names = [text(entry.name) for entry in entries]
    largest = float(np.nanmax(z))
    limit = float(np.nanquantile(z, 1 - MOST_SATURATED)) or largest or 1.0
    heatmap = go.Heatmap(
        z=z,
        x=names,
        y=names,
        zmin=0,
        zmax=limit,
        colorscale=MAGNITUDE,
        hoverongaps=False,
        customdata=np.stack([sums, np.broadcast_to(n_tokens, sums.shape)], axis=-1),
        hovertemplate=(
            "from %{y}<br>to %{x}<br>%{customdata[0]:.2f} % of the attention, on %{customdata[1]} "
            f"token(s)<br>shown: %{{z:.3g}} % ({audio})<extra></extra>"
        ),
        colorbar=_colorbar(limit, largest, audio),
    )
    figure = go.Figure(heatmap)
    _frame_audio(figure, entries)
    figure.update_xaxes(title_text="attends to", tickangle=90, **AXIS)
    figure.update_yaxes(title_text="token", autorange="reversed", **AXIS)
    styled(figure, height=min(920, max(440, 180 + 13 * len(entries))), margin={"t": 44})
    figure.add_annotation(
        text=_how_to_read(entries, limit, largest, audio), showarrow=False, align="left",
        xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom",
    )  # fmt: skip
    return figure


def _frame_audio(figure: go.Figure, entries: list[Entry]) -> None:
    """A frame around the columns and around the rows of each unbroken stretch of audio."""
    for first, last in _audio_blocks(entries):
        for axis, other in ("xy", "yx"):
            block = {f"{axis}0": first - 0.5, f"{axis}1": last + 0.5, f"{axis}ref": axis}
            across = {f"{other}0": 0, f"{other}1": 1, f"{other}ref": f"{other} domain"}
            line = {"color": "#ff3d7f", "width": 1}
            figure.add_shape(type="rect", line=line, **block, **across)


def _colorbar(limit: float, largest: float, audio: str) -> dict[str, Any]:
    """Ticks in per cent; the last one says where cells are beyond it."""
    unit = "attention per token (%)" if audio == "mean" else "attention (%)"
    ticks = [limit * i / 4 for i in range(5)]
    names = [f"{tick:.3g}" for tick in ticks]
    names[-1] = f"≥ {names[-1]}" if largest > limit else names[-1]
    title = {"text": unit, "side": "right"}
    return {"title": title, "thickness": 12, "tickvals": ticks, "ticktext": names}


def _how_to_read(entries: list[Entry], limit: float, largest: float, audio: str) -> str:
    """What a column of audio is, and where the colours end."""
    lines = []
    sizes = [entry.stop - entry.start for entry in entries if entry.is_audio]
    if sizes and max(sizes) > 1:
        lines.append(f"audio columns: the {audio} of {max(sizes)} audio tokens")
    if largest > limit:
        share = f"{1 - MOST_SATURATED:.0%}"
        # Short enough for an explorer on a laptop.
        lines.append(f"colours end at {limit:.3g} % ({share} of cells; largest {largest:.3g} %)")
    return "<br>".join(lines)


def _entries(prompt: AudioPrompt, row: int, windows: int) -> list[Entry]:
    words = prompt.str_tokens(row)
    real, audio = prompt.attention_mask[row].tolist(), prompt.audio_mask[row].tolist()
    folded = {entry.start: entry for entry in _audio_entries(prompt, row, windows)}
    return [
        folded[i] if audio[i] else Entry(_named(words[i], i), i, i + 1, False)
        for i in range(len(words))
        if real[i] and (not audio[i] or i in folded)
    ]


def _audio_entries(prompt: AudioPrompt, row: int, windows: int) -> list[Entry]:
    """Each clip in windows of equally many tokens; the last may have fewer."""
    positions, times = prompt.audio_positions(row).tolist(), prompt.audio_times(row)
    if not positions:
        return []
    starts = [*(times[:, 0] == 0).nonzero().flatten().tolist(), len(positions)]
    entries = []
    for clip, (first, end) in enumerate(pairwise(starts)):
        size = -(-(end - first) // windows)
        which = f"clip {clip}, " if len(starts) > 2 else ""
        for i in range(first, end, size):
            last = min(i + size, end) - 1
            name = f"{which}{float(times[i, 0]):.2f}–{float(times[last, 1]):.2f} s"
            entries.append(Entry(name, positions[i], positions[last] + 1, True))
    return entries


def _named(word: str, position: int) -> str:
    """A token with its line breaks visible, and its position, which sets equal tokens apart."""
    return f"{clipped(repr(word)[1:-1].strip()) or '␣'} · {position}"


def _folded(
    pattern: Float[np.ndarray, "query key"], entries: list[Entry]
) -> Float[np.ndarray, "entry entry"]:
    """In per cent; nothing (NaN) where no key comes before the last query."""
    rows = np.stack([pattern[e.start : e.stop].mean(0) for e in entries])
    cells = np.stack([rows[:, e.start : e.stop].sum(1) for e in entries], axis=1)
    starts, stops = np.array([e.start for e in entries]), np.array([e.stop for e in entries])
    return np.where(starts[None] < stops[:, None], 100 * cells, np.nan).astype(np.float32)


def _audio_blocks(entries: list[Entry]) -> list[tuple[int, int]]:
    """First and last entry of each unbroken stretch of audio."""
    blocks: list[tuple[int, int]] = []
    for i, entry in enumerate(entries):
        if entry.is_audio and i and entries[i - 1].is_audio:
            blocks[-1] = (blocks[-1][0], i)
        elif entry.is_audio:
            blocks.append((i, i))
    return blocks
