"""The recordings' players, whose playhead runs over every figure over time beside them."""

import anywidget
import traitlets

from lens_audio.explorer.session import ROLES, Session
from lens_audio.plots.assets import PLAYHEAD_STYLE, PLAYHEADS
from lens_audio.plots.report import wav_bytes

ROOT = "lens-audio-explorer"  # class of the widget whose figures follow the sound
OVER_TIME = "lens-audio-over-time"  # class of a figure whose x axis is the sound's time

RENDER = f"""
function render({{model, el}}) {{
  el.classList.add("lens-audio-player");
  const sounds = model.get("names").map((name) => {{
    const label = document.createElement("label");
    const sound = document.createElement("audio");
    const title = document.createElement("span");
    title.textContent = name;
    sound.controls = true;
    label.append(title, sound);
    el.append(label);
    return sound;
  }});
  const load = () => model.get("files").forEach((file, i) => {{
    URL.revokeObjectURL(sounds[i].src);
    sounds[i].src = URL.createObjectURL(new Blob([file], {{type: "audio/wav"}}));
  }});
  load();
  model.on("change:files", load);
  const follow = sounds.length ? playheads(sounds) : () => {{}};
  let observer = null;
  // A figure takes a new width only when the window changes its size.
  const widths = new Map();
  const fit = new ResizeObserver((entries) => {{
    const changed = entries.filter((e) => widths.get(e.target) !== e.contentRect.width);
    for (const entry of changed) widths.set(entry.target, entry.contentRect.width);
    if (changed.length) requestAnimationFrame(() => window.dispatchEvent(new Event("resize")));
  }});
  const begin = () => {{
    const root = el.closest(".{ROOT}");
    if (!root) return false;
    const adopt = () => {{
      for (const figure of root.querySelectorAll(".js-plotly-plot")) {{
        fit.observe(figure.parentElement);
        if (figure.closest(".{OVER_TIME}")) follow(figure);
      }}
    }};
    observer = new MutationObserver(adopt);
    observer.observe(root, {{childList: true, subtree: true}});
    adopt();
    return true;
  }};
  const waiting = setInterval(() => {{ if (begin()) clearInterval(waiting); }}, 100);
  return () => {{
    clearInterval(waiting);
    observer?.disconnect();
    fit.disconnect();
    model.off("change:files", load);
    for (const sound of sounds) URL.revokeObjectURL(sound.src);
  }};
}}
export default {{render}};
"""

STYLE = (
    PLAYHEAD_STYLE
    + """
.lens-audio-explorer { border: 1px solid rgba(128,128,128,.35); border-radius: 10px; padding: 14px;
  max-width: 1500px; }
.lens-audio-explorer h3 { font-size: 15px; margin: 10px 0 2px; font-weight: 600; }
.lens-audio-explorer .note { opacity: .72; font-size: 13px; line-height: 1.4; }
.lens-audio-explorer .error { color: #c0392b; font-weight: 600; }
.lens-audio-explorer pre { white-space: pre-wrap; font-size: 12px; line-height: 1.4; user-select: all;
  padding: 8px; border: 1px solid rgba(128,128,128,.35); border-radius: 6px; margin: 2px 0; }
.lens-audio-explorer .strip { width: 100%; height: 36px; display: block; }
.lens-audio-player { display: flex; width: 100%; gap: 24px; flex-wrap: wrap; }
.lens-audio-player label { display: flex; flex-direction: column; flex: 1 1 300px; font-size: 13px; }
.lens-audio-player audio { width: 100%; height: 36px; margin-top: 4px; }
"""
)


class Player(anywidget.AnyWidget):
    """A player for each recording that has a waveform, of one clip at a time."""

    _esm = PLAYHEADS + RENDER
    _css = STYLE
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    files = traitlets.List(traitlets.Bytes()).tag(sync=True)

    def __init__(self, session: Session) -> None:
        prompts = {role: session.prompt(role) for role in ROLES}
        self.prompts = {
            role: prompt for role, prompt in prompts.items() if prompt.waveforms is not None
        }
        super().__init__(names=list(self.prompts), layout={"width": "100%"})
        self.play_clip(0)

    def play_clip(self, clip: int) -> None:
        """Offer the clips of that number."""
        files = []
        for prompt in self.prompts.values():
            assert prompt.waveforms is not None
            wave = prompt.waveforms[prompt.clips_of(0)[clip]]
            files.append(wav_bytes(wave, prompt.sampling_rate))
        self.files = files
