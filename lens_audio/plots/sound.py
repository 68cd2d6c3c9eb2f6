"""A recording and what happens over it: one shared time axis in seconds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Real
from torch import Tensor
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from lens_audio.inputs import AudioPrompt
from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import BLUE, GRID, INK, MAGNITUDE, styled
from lens_audio.sites import head_name

MAX_COLUMNS = 1000  # of a waveform's envelope and of a spectrogram: more than a screen shows
MAX_CELLS = 120_000  # of attention: a page of more is slow; neighbouring tokens are then summed
WAVE_HEIGHT, MEL_HEIGHT, ROW_HEIGHT, GAP = 90, 170, 26, 14  # pixels
MOST_HEIGHT = 1000  # of all heads' rows together
FREQUENCIES = (500.0, 1000.0, 2000.0, 4000.0)  # Hz, labels of the mel axis


def attention_over_time(
    prompt: AudioPrompt,
    attention: Real[Array, "chosen audio_token"] | pd.DataFrame,
    heads: Sequence[tuple[int, int]],
    *,
    row: int = 0,
    clip: int = 0,
    span: tuple[float, float] | None = None,
) -> go.Figure:
    """The waveform, the log-mel spectrogram as the model reads it, and each head's attention.

    Of very many heads over a long sound, neighbouring audio tokens are summed into wider columns:
    the hover text tells each column's span.

    Args:
        attention: rows of `analysis.audio_attention` for the chosen heads: [head, audio token] of
            this row of the prompt.
        heads: their (layer, head), in the order to show them, first on top.
        row: the prompt's row.
        clip: which of the row's clips.
        span: start and end in seconds of something known to sound, marked with dotted lines.

    Raises:
        ValueError: for a row without audio, no such clip, or rows of attention that do not fit.
    """
    clips = prompt.clips_of(row)
    if not 0 <= clip < len(clips):
        raise ValueError(f"row {row} has {len(clips)} clips; there is no clip {clip}")
    shares = as_array(attention, "head", "audio token")
    if shares.shape[0] != len(heads) or not heads:
        raise ValueError(f"{len(heads)} heads, but {shares.shape[0]} rows of attention")
    times = prompt.audio_times(row)
    if shares.shape[1] < len(times):
        raise ValueError(f"{len(times)} audio tokens, but attention to {shares.shape[1]}")
    starts = [*(times[:, 0] == 0).nonzero().flatten().tolist(), len(times)]
    tokens = slice(starts[clip], starts[clip + 1])
    number = clips[clip]
    figure = go.Figure(_attention_rows(shares[:, tokens], times[tokens], heads))
    figure.add_trace(_spectrogram(prompt, number))
    if prompt.waveforms is not None:
        figure.add_traces(waveform_traces(prompt.waveforms[number], prompt.sampling_rate, "y3"))
    seconds = prompt.clip_seconds(number)
    return _arranged(figure, heads, prompt, seconds, span)


def _attention_rows(
    attention: Float[np.ndarray, "chosen token"],
    times: Float[Tensor, "token 2"],
    heads: Sequence[tuple[int, int]],
) -> go.Heatmap:
    z, edges = _columns(attention, times.numpy())
    spans = np.stack([edges[:-1], edges[1:]], axis=-1).astype(np.float32)
    share = z / np.maximum(z.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    numbers = [np.broadcast_to(spans, (*z.shape, 2)), 100 * share[..., None]]
    return go.Heatmap(
        z=100 * z,
        x=edges,
        y=[head_name(*head) for head in heads],
        zmin=0,
        colorscale=MAGNITUDE,
        ygap=2 if _row_height(heads) > 8 else 0,
        customdata=np.concatenate(numbers, axis=-1),
        hovertemplate=(
            "%{y}, %{customdata[0]:.2f} to %{customdata[1]:.2f} s<br>"
            "%{z:.2f} % of the head's attention<br>"
            "%{customdata[2]:.2f} % of its audio mass<extra></extra>"
        ),
        colorbar={"title": {"text": "attention (%)", "side": "right"}, "thickness": 10},
    )


def _columns(
    attention: Float[np.ndarray, "chosen token"], times: Float[np.ndarray, "token 2"]
) -> tuple[Float[np.ndarray, "chosen column"], Float[np.ndarray, " edge"]]:
    """Attention by columns of one or more tokens, and where they begin and the last one ends."""
    n_heads, n_tokens = attention.shape
    pool = -(-n_heads * n_tokens // MAX_CELLS)
    starts = np.arange(0, n_tokens, pool)
    edges = np.append(times[starts, 0], times[-1, 1])
    return np.add.reduceat(attention, starts, axis=1), edges


def _row_height(heads: Sequence[tuple[int, int]]) -> int:
    return max(1, min(ROW_HEIGHT, MOST_HEIGHT // len(heads)))


def _spectrogram(prompt: AudioPrompt, clip: int) -> go.Heatmap:
    """The clip's own frames; Whisper's features are (log10 power + 4) / 4, 80 dB deep."""
    assert prompt.mel is not None
    assert prompt.mel_lengths is not None
    parts = [prompt.mel[one, :, : prompt.mel_lengths[one]] for one in prompt.windows_of(clip)]
    decibels = 40 * (torch.cat(parts, dim=1).detach().float().cpu().numpy() - 1)
    frames = decibels.shape[1]
    pool = -(-frames // MAX_COLUMNS)
    n_columns = -(-frames // pool)
    padded = np.pad(decibels, ((0, 0), (0, n_columns * pool - frames)), mode="edge")
    step = pool * prompt.seconds_per_frame
    z = padded.reshape(len(decibels), n_columns, pool).mean(-1).astype(np.float32)
    hertz = _band_centres(len(decibels)).round().astype(np.int32)
    return go.Heatmap(
        z=z,
        x0=step / 2,
        dx=step,
        y=list(range(len(decibels))),
        yaxis="y2",
        colorscale="Cividis",
        customdata=np.broadcast_to(hertz[:, None], z.shape),
        hovertemplate="%{x:.2f} s, %{customdata} Hz<br>level %{z:.0f} dB<extra></extra>",
        colorbar={"title": {"text": "level (dB)", "side": "right"}, "thickness": 10},
    )


def waveform_traces(
    wave: Float[np.ndarray, " samples"], rate: int, axis: str, colour: str = BLUE
) -> list[go.Scatter]:
    """The lowest and the highest sample of each column, the space between them filled."""
    per_column = max(1, -(-len(wave) // MAX_COLUMNS))
    starts = np.arange(0, len(wave), per_column)
    low = np.minimum.reduceat(wave, starts)
    high = np.maximum.reduceat(wave, starts)
    line: dict[str, Any] = {"mode": "lines", "line": {"color": colour, "width": 1}, "yaxis": axis}
    hover = "%{x:.2f} s<br>amplitude %{customdata:.3f} to %{y:.3f}<extra></extra>"
    x = starts / rate
    return [
        go.Scatter(x=x, y=low, hoverinfo="skip", showlegend=False, **line),
        go.Scatter(
            x=x, y=high, customdata=low, hovertemplate=hover, fill="tonexty", fillcolor=colour,
            showlegend=False, **line,
        ),
    ]  # fmt: skip


def _arranged(
    figure: go.Figure,
    heads: Sequence[tuple[int, int]],
    prompt: AudioPrompt,
    seconds: float,
    span: tuple[float, float] | None,
) -> go.Figure:
    """The three parts one above the other, over one time axis."""
    has_wave = prompt.waveforms is not None
    rows_height = max(3 * ROW_HEIGHT, len(heads) * _row_height(heads))
    heights = [rows_height, MEL_HEIGHT] + [WAVE_HEIGHT] * has_wave
    total = sum(heights) + GAP * (len(heights) - 1)
    starts = [sum(heights[:i]) + GAP * i for i in range(len(heights))]
    domains = [[s / total, (s + h) / total] for s, h in zip(starts, heights, strict=True)]
    n_mels = prompt.mel.shape[1] if prompt.mel is not None else 0
    ticks = [f for f in FREQUENCIES if f <= _band_centres(n_mels).max()]
    axes: dict[str, Any] = {
        "yaxis": {
            "domain": domains[0],
            "type": "category",
            "range": [len(heads) - 0.5, -0.5],
            "nticks": min(len(heads), 40),
            "title": {"text": "head"},
        },
        "yaxis2": {
            "domain": domains[1],
            "tickvals": [_band_of(f, n_mels) for f in ticks],
            "ticktext": [f"{f / 1000:g}" for f in ticks],
            "title": {"text": "frequency (kHz)"},
        },
    }
    for trace, domain in zip(figure.data[:2], domains, strict=False):
        trace.colorbar.update(
            y=sum(domain) / 2, len=(domain[1] - domain[0]) * total, lenmode="pixels"
        )
    if has_wave:
        axes["yaxis3"] = {"domain": domains[2], "title": {"text": "amplitude"}, "nticks": 4}
    margin = {"l": 74, "r": 10, "t": 12, "b": 48}
    styled(figure, height=total + margin["t"] + margin["b"], hovermode="x", margin=margin, **axes)
    figure.update_yaxes(
        showgrid=False, fixedrange=True, automargin=True, title_standoff=8, ticklabelstandoff=4
    )
    figure.update_xaxes(
        title_text="time (s)", range=[0, seconds], anchor="y", gridcolor=GRID,
        showspikes=True, spikemode="across", spikesnap="cursor", spikecolor=INK,
        spikethickness=1, spikedash="solid",
    )  # fmt: skip
    for edge in span or ():
        figure.add_shape(
            type="line", x0=edge, x1=edge, y0=0, y1=1, yref="paper",
            line={"color": "#ff3d7f", "width": 1.5, "dash": "dot"},
        )  # fmt: skip
    return figure


def _band_centres(n_mels: int) -> Float[np.ndarray, " n_mels"]:
    """Centre frequencies in Hz of Whisper's mel bands: Slaney's scale from 0 to 8 kHz."""
    top = hertz_to_mel(8000.0, mel_scale="slaney")
    mels = top * np.arange(1, n_mels + 1) / (n_mels + 1)
    return np.asarray(mel_to_hertz(mels, mel_scale="slaney"))


def _band_of(hertz: float, n_mels: int) -> float:
    """The (fractional) mel band at a frequency."""
    top = hertz_to_mel(8000.0, mel_scale="slaney")
    return float(hertz_to_mel(hertz, mel_scale="slaney") / top * (n_mels + 1) - 1)
