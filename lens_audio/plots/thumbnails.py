"""All heads at once: how each one's attention moves over the sound, hundreds of heads on one canvas."""

import base64
import json
from itertools import count

import numpy as np
from jaxtyping import Float, Real

from lens_audio.inputs import AudioPrompt
from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.report import audio_html, escape, note, page, safe_json, section

WAVE_COLUMNS = 1000  # of the waveform above the enlarged head
NUMBERS = count(1)  # tells several on one page apart
SAID = (
    "One row of pictures a layer, the last layer on top; in each, one head’s attention to the audio "
    "over time, from the last position of the prompt. The bluer a head, the larger its audio mass, "
    "the share of its attention that falls on the audio. Point at a head to see it large, click to "
    "hear what it attends to there."
)

STYLE = """
.thumbnails canvas { display: block; width: 100%; }
.thumbnails .large { position: sticky; top: 0; background: var(--card, Canvas); z-index: 3;
  padding-bottom: 8px; }
.thumbnails .said { min-height: 1.6em; font-size: 14px; font-variant-numeric: tabular-nums; }
.thumbnails label { font-size: 14px; }
.thumbnails .all { position: relative; cursor: crosshair; }
.thumbnails .all canvas + canvas { position: absolute; left: 0; top: 0; }
"""

SCRIPT = """
function thumbnails(box) {
  const given = JSON.parse(box.querySelector("script").textContent);
  const bytes = Uint8Array.from(atob(given.attention), (c) => c.charCodeAt(0));
  const values = new Uint16Array(bytes.buffer);  // of 65535ths of the head's largest
  const {layers, heads, edges, largest, mass, wave} = given;
  const tokens = edges.length - 1, end = edges[tokens], left = 30, gap = 2, names = 18;
  const [large, drawn, over] = box.querySelectorAll("canvas");
  const said = box.querySelector(".said"), same = box.querySelector("input");
  const most = Math.max(...largest);
  let shown = mass.indexOf(Math.max(...mass)), seen = null, frame = 0;
  let sound = document.querySelector("audio"), width, step, height;
  const value = (n, i) => values[n * tokens + i] / 65535 * largest[n];
  const top = (n) => gap + (layers - 1 - Math.floor(n / heads)) * (height + gap);
  const start = (n) => left + (n % heads) * step;
  const token = (time) => {
    let low = 0, high = tokens - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (edges[middle] <= time) low = middle; else high = middle - 1;
    }
    return low;
  };
  const prepared = (canvas, w, h) => {
    const dots = window.devicePixelRatio || 1;
    canvas.width = Math.round(w * dots); canvas.height = Math.round(h * dots);
    canvas.style.height = h + "px";
    const brush = canvas.getContext("2d");
    brush.scale(dots, dots);
    return brush;
  };
  const colour = (n) => {
    const share = Math.sqrt(Math.min(1, mass[n]));
    return `hsl(208 ${15 + 65 * share}% ${matchMedia("(prefers-color-scheme: dark)").matches
      ? 38 + 27 * share : 72 - 30 * share}%)`;
  };
  const curve = (brush, n, x, y, w, h, scale) => {  // the largest of what falls on one pixel
    const columns = Math.max(1, Math.round(w));
    brush.fillStyle = colour(n);
    for (let c = 0; c < columns; c++) {
      let peak = 0;
      const last = token((c + 1) / columns * end - 1e-9);
      for (let i = token(c / columns * end); i <= last; i++) peak = Math.max(peak, value(n, i));
      const tall = scale ? peak / scale * h : 0;
      brush.fillRect(x + c * w / columns, y + h - tall, w / columns + 0.3, tall);
    }
  };
  const ink = () => getComputedStyle(box).color;
  const all = () => {
    const room = drawn.parentElement.clientWidth;
    step = (room - left) / heads; width = step - gap;
    height = Math.max(16, Math.min(56, width * 0.6));
    const tall = gap + layers * (height + gap) + names;
    const brush = prepared(drawn, room, tall);
    prepared(over, room, tall);
    brush.font = "11px system-ui"; brush.textBaseline = "middle";
    for (let n = 0; n < layers * heads; n++) {
      brush.fillStyle = "rgba(128,128,128,0.13)";
      brush.fillRect(start(n), top(n), width, height);
      curve(brush, n, start(n), top(n), width, height, same.checked ? most : largest[n]);
    }
    brush.fillStyle = ink();
    for (let l = 0; l < layers; l++) brush.fillText("L" + l, 0, top(l * heads) + height / 2);
    brush.textAlign = "center";
    for (let h = 0; h < heads; h += step < 26 ? 4 : 1) {
      brush.fillText("H" + h, start(h) + width / 2, tall - names / 2);
    }
    enlarged(); ask();
  };
  const enlarged = () => {
    const room = large.parentElement.clientWidth, wide = room - left;
    const brush = prepared(large, room, 150);
    brush.fillStyle = "rgba(128,128,128,0.6)";
    wave.forEach(([low, high], i) => brush.fillRect(
      left + i * wide / wave.length, 22 - 20 * high, wide / wave.length + 0.3, 20 * (high - low) + 0.6));
    curve(brush, shown, left, 48, wide, 84, same.checked ? most : largest[shown]);
    brush.fillStyle = ink(); brush.font = "11px system-ui";
    const apart = [0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900].find((s) => end / s <= 12) || 3600;
    for (let t = 0; t <= end; t += apart) {
      const place = left + t / end * wide;
      brush.fillText(t.toFixed(apart < 1 ? 2 : 0) + (t ? "" : " s"), Math.min(place, room - 24), 146);
    }
  };
  const words = () => {
    const name = `L${Math.floor(shown / heads)}H${shown % heads}`;
    let text = `${name}: audio mass ${(100 * mass[shown]).toFixed(1)} %`;
    if (seen !== null) {
      const i = token(seen);
      text += `; ${edges[i].toFixed(2)} to ${edges[i + 1].toFixed(2)} s: `
        + `${(100 * value(shown, i)).toFixed(2)} % of its attention`;
    }
    said.textContent = text;
  };
  const playhead = () => {
    frame = 0;
    const brush = over.getContext("2d");
    brush.clearRect(0, 0, over.width, over.height);
    brush.strokeStyle = "#e69f00"; brush.lineWidth = 2;
    brush.strokeRect(start(shown) - 1, top(shown) - 1, width + 2, height + 2);
    const time = sound ? sound.currentTime : 0;
    if (sound && time <= end) {
      brush.fillStyle = "#ff3d7f";
      for (let n = 0; n < layers * heads; n++) {
        brush.fillRect(start(n) + time / end * width - 0.5, top(n), 1, height);
      }
      const mark = box.querySelector(".now"), wide = large.clientWidth - left;
      mark.style.left = left + time / end * wide + "px";
      mark.style.display = "block";
    }
    box.dataset.time = time;
    if (sound && !sound.paused) ask();
  };
  const ask = () => { frame = frame || requestAnimationFrame(playhead); };
  const at = (event) => {
    const x = event.offsetX - left, y = event.offsetY - gap;
    const head = Math.floor(x / step), row = Math.floor(y / (height + gap));
    if (x < 0 || head >= heads || row < 0 || row >= layers) return false;
    shown = (layers - 1 - row) * heads + head;
    seen = Math.min(end, Math.max(0, (x - head * step) / width * end));
    return true;
  };
  const seek = () => { if (sound) sound.currentTime = Math.min(seen, sound.duration || 0); };
  over.addEventListener("mousemove", (event) => {
    const before = shown;
    if (!at(event)) return;
    words();
    if (shown !== before) { enlarged(); ask(); }
  });
  over.addEventListener("click", (event) => { if (at(event)) seek(); });
  const over_large = (event) => {
    seen = Math.min(end, Math.max(0, (event.offsetX - left) / (large.clientWidth - left) * end));
    words();
  };
  large.addEventListener("mousemove", over_large);
  large.addEventListener("click", (event) => { over_large(event); seek(); });
  same.addEventListener("change", all);
  for (const kind of ["play", "pause", "seeking", "timeupdate"]) {
    document.addEventListener(kind, (event) => { sound = event.target; ask(); }, true);
  }
  new ResizeObserver(all).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  words();
}
document.querySelectorAll(".thumbnails:not([data-time])").forEach((box) => {
  box.dataset.time = 0; thumbnails(box);
});
"""


def head_thumbnails(
    prompt: AudioPrompt,
    attention: Real[Array, "layer head audio_token"],
    *,
    row: int = 0,
    clip: int = 0,
    title: str = "All heads over the sound",
) -> str:
    """A page of all heads as small pictures of attention over time, with the sound's player.

    It needs no network; `write_page` writes it. 32 x 32 heads over 30 s are about 2 MB, beside the sound.

    Args:
        attention: of `analysis.audio_attention`, of this row of the prompt.
        row: the prompt's row.
        clip: which of the row's clips.

    Raises:
        ValueError: for a row without audio, no such clip, or attention that does not fit.
    """
    parts = [thumbnails_html(prompt, attention, row=row, clip=clip)]
    if prompt.waveforms is not None:
        sound = prompt.waveforms[prompt.clips_of(row)[clip]]
        parts.insert(0, audio_html(sound, prompt.sampling_rate))
    header = f"<header><h1>{escape(title)}</h1></header>"
    return page(title, header + section(None, note(SAID), *parts))


def thumbnails_html(
    prompt: AudioPrompt,
    attention: Real[Array, "layer head audio_token"],
    *,
    row: int = 0,
    clip: int = 0,
) -> str:
    """The pictures alone, for a page of one's own; they follow the page's player.

    Raises:
        ValueError: as `head_thumbnails`.
    """
    clips = prompt.clips_of(row)
    if not 0 <= clip < len(clips):
        raise ValueError(f"row {row} has {len(clips)} clips; there is no clip {clip}")
    shares = as_array(attention, "layer", "head", "audio token")
    times = prompt.audio_times(row).numpy()
    if shares.shape[2] < len(times):
        raise ValueError(f"{len(times)} audio tokens, but attention to {shares.shape[2]}")
    starts = [*np.flatnonzero(times[:, 0] == 0).tolist(), len(times)]
    tokens = slice(starts[clip], starts[clip + 1])
    data = _packed(shares[..., tokens]) | {
        "edges": np.append(times[tokens, 0], times[tokens][-1, 1]).round(4).tolist(),
        "wave": [] if prompt.waveforms is None else _envelope(prompt.waveforms[clips[clip]]),
    }
    return (
        f'<style>{STYLE}</style><div class="thumbnails" id="thumbnails-{next(NUMBERS)}">'
        f'<script type="application/json">{safe_json(json.dumps(data))}</script>'
        '<div class="large"><div class="said"></div>'
        '<div style="position:relative"><canvas></canvas><div class="now playhead" '
        'style="top:0;height:134px"></div></div></div>'
        '<label><input type="checkbox"> one scale for all heads</label>'
        '<div class="all"><canvas></canvas><canvas></canvas></div></div>'
        f"<script>{{{SCRIPT}}}</script>"
    )


def _packed(shares: Float[np.ndarray, "layer head token"]) -> dict[str, object]:
    """Two bytes a number, each head relative to its own largest."""
    n_layers, n_heads, _ = shares.shape
    largest = shares.max(-1, keepdims=True)
    relative = shares / np.where(largest > 0, largest, 1)
    numbers = np.nan_to_num(relative * 65535).clip(0, 65535).round().astype("<u2")
    return {
        "layers": n_layers,
        "heads": n_heads,
        "attention": base64.b64encode(numbers.tobytes()).decode(),
        "largest": [float(f"{x:.6g}") for x in np.nan_to_num(largest).ravel()],
        "mass": [float(f"{x:.6g}") for x in np.nan_to_num(shares.sum(-1)).ravel()],
    }


def _envelope(wave: Float[np.ndarray, " samples"]) -> list[list[float]]:
    """The lowest and the highest sample of each column."""
    samples = np.asarray(wave, dtype=np.float32)
    starts = np.linspace(0, len(samples), min(WAVE_COLUMNS, len(samples)), endpoint=False).astype(
        int
    )
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    return np.stack([low, high], -1).round(3).astype(float).round(3).tolist()
