"""The style and the few lines of script of every HTML report."""

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --ink: #1d2430;
  --soft: #596273; --line: #dfe3ea; --accent: #1668b0; --good: #0b7a53; --bad: #b3421a; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151b; --card: #1b1f27; --ink: #e8ebf1;
  --soft: #a3adbd; --line: #303743; --accent: #6cb4f2; --good: #53c79a; --bad: #f2935f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 28px 24px 40px; }
header h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
header p { margin: 0; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px 24px; margin-top: 20px; min-width: 0; }
h2 { font-size: 19px; margin: 0 0 6px; }
section p { margin: 4px 0 10px; max-width: 80ch; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 14px; }
.grid { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 8px 36px; }
.grid.even { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
@media (max-width: 860px) { .grid, .grid.even { grid-template-columns: minmax(0, 1fr); } }
.question { font-size: 17px; }
.answer { font-size: 34px; font-weight: 650; line-height: 1.25; margin: 2px 0 6px;
  overflow-wrap: anywhere; }
.label { color: var(--soft); font-size: 12px; font-weight: 600; letter-spacing: 0.06em;
  text-transform: uppercase; margin: 14px 0 0; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
audio { display: block; width: 100%; height: 42px; margin: 8px 0 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 15px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.figure { position: relative; width: 100%; }
.figure :not(.heatmap-label, .textpoint) > text { fill: var(--ink) !important; }
.figure .hoverlayer text { fill: #ffffff !important; }
.figure .updatemenu-item-rect { fill: var(--paper) !important; stroke: var(--line) !important; }
footer { color: var(--soft); font-size: 13px; margin-top: 22px; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.95em; }
footer code span { display: inline-block; max-width: 100%; }
@media (max-width: 1100px) { table { font-size: 14px; } th, td { padding: 5px 7px; } }
"""

# A line on figures over time that follows the sound (of several the one played last); a click on
# such a figure moves it.
PLAYHEADS = """
function playheads(sounds) {
  let current = sounds[0], frame = 0;
  const places = new Map();
  const draw = () => {
    frame = 0;
    for (const [figure, place] of places) {
      if (figure.isConnected) place(); else places.delete(figure);
    }
    if (!current.paused) ask();
  };
  const ask = () => { frame = frame || requestAnimationFrame(draw); };
  for (const sound of sounds) {
    sound.addEventListener("play", () => {
      current = sound;
      for (const other of sounds) { if (other !== sound) other.pause(); }
    });
    for (const event of ["play", "pause", "seeking", "timeupdate"]) {
      sound.addEventListener(event, () => { if (sound === current) ask(); });
    }
  }
  return function follow(figure) {
    if (places.has(figure) || !figure._fullLayout || !figure.on) return;
    const line = document.createElement("div");
    line.className = "playhead";
    figure.style.position = "relative";
    figure.appendChild(line);
    places.set(figure, () => {
      const axis = figure._fullLayout.xaxis, size = figure._fullLayout._size;
      const x = axis.d2p(current.currentTime);
      const visible = x >= 0 && x <= axis._length;
      line.style.display = visible ? "block" : "none";
      line.style.left = axis._offset + x + "px";
      line.style.top = size.t + "px";
      line.style.height = size.h + "px";
    });
    figure.on("plotly_afterplot", ask);
    figure.on("plotly_click", (click) => {
      const axis = figure._fullLayout.xaxis;
      const x = click.event.clientX - figure.getBoundingClientRect().left - axis._offset;
      current.currentTime = Math.min(Math.max(axis.p2d(x), 0), current.duration || 0);
    });
    ask();
  };
}
"""

PLAYHEAD_STYLE = """
.playhead { position: absolute; width: 2px; margin-left: -1px; background: #ff3d7f;
  pointer-events: none; display: none; z-index: 2; }
"""

# What a figure shows as CSV. Texts are written as `lens_audio.tables` writes them: not to be run.
CSV = r"""
function csv(figure) {
  const cell = (x) => {
    if (x === undefined || x === null || Number.isNaN(x)) return "";
    if (typeof x === "number") return String(x);
    const text = String(x).replace(/<br>/g, " ").replace(/<[^>]*>/g, "")
      .replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&")
      .replace(/(^|[;\t\r\n])(?=[\s"\0\ufeff]*[=+\-@'\uff1d\uff0b\uff0d\uff20])/g, "$1'");
    return '"' + text.replace(/"/g, '""') + '"';
  };
  const titled = (part) => part && part.title ? part.title.text : undefined;
  const rows = [["series", "x", "x_end", "y", "value", "text"]];
  for (const trace of figure._fullData) {
    if (trace.visible !== true || (trace.hoverinfo === "skip" && trace.type === "scatter")) continue;
    const layout = figure._fullLayout;
    const series = trace.type === "heatmap"
      ? titled(trace.colorbar) || titled((layout[trace.coloraxis] || {}).colorbar) || trace.name
      : trace.name;
    const extra = (i) => [trace.hovertext, trace.customdata].map((from) => from && from[i])
      .find((text) => typeof text === "string");
    if (trace.type !== "heatmap") {
      const values = trace.y || trace.x || [];
      for (let i = 0; i < values.length; i++) {
        rows.push([series, trace.x && trace.x[i], "", trace.y && trace.y[i], "", extra(i)]);
      }
      continue;
    }
    const width = trace.z.length ? trace.z[0].length : 0;
    const along = (name) => (i) => {
      const given = trace[name];
      if (!given) return (trace[name + "0"] || 0) + i * (trace["d" + name] || 1);
      return i < given.length ? given[i] : undefined;
    };
    const x = along("x"), y = along("y");
    const is_edges = trace.x && trace.x.length === width + 1;
    trace.z.forEach((line, i) => Array.from(line).forEach((z, j) => rows.push([
      series, x(j), is_edges ? x(j + 1) : "", y(i), z,
      trace.hovertext && trace.hovertext[i] ? trace.hovertext[i][j] : ""])));
  }
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}
function saveCsv(figure) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(figure)], {type: "text/csv"}));
  link.download = figure.id + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
"""

# Every figure is drawn from the JSON beside it. Commands do not break inside "--an-option".
SCRIPT = f"""
for (const code of document.querySelectorAll("footer code")) {{
  const words = code.textContent.split(" ").map((word) => {{
    const span = document.createElement("span");
    span.textContent = word;
    return span;
  }});
  code.replaceChildren(...words.flatMap((word, i) => (i ? [" ", word] : [word])));
}}
{PLAYHEADS}
{CSV}
const config = (figure) => ({{responsive: true, displaylogo: false,
  toImageButtonOptions: {{format: "svg", filename: figure.id}},
  modeBarButtons: [["toImage", {{name: "csv", title: "Download data as CSV",
    icon: Plotly.Icons.disk, click: saveCsv}}, "resetScale2d"]]}});
const sounds = [...document.querySelectorAll("audio")];
const follow = sounds.length ? playheads(sounds) : () => {{}};
for (const figure of document.querySelectorAll(".figure")) {{
  const spec = JSON.parse(document.getElementById(figure.id + "-data").textContent);
  Plotly.newPlot(figure, spec.data, spec.layout, config(figure)).then(() => {{
    if (figure.dataset.time) follow(figure);
  }});
}}
"""
