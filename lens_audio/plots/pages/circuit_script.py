"""The style and the script of the part of a page that shows edges."""

STYLE = """
.control { display: flex; align-items: center; gap: 14px; margin: 14px 0 6px; flex-wrap: wrap;
  max-width: none !important; }
.control label { font-weight: 600; } .control input { flex: 0 1 420px; accent-color: var(--accent); }
.control output { color: var(--soft); font-variant-numeric: tabular-nums; }
select { font: inherit; color: var(--ink); background: var(--paper); padding: 3px 8px;
  border: 1px solid var(--line); border-radius: 6px; }
.panel { border-top: 1px solid var(--line); margin-top: 10px; }
#effect p { margin: 2px 0; } .limits li { max-width: 80ch; margin: 4px 0; }
#circuit .nsewdrag { cursor: default; }
"""

# It stands before the script that draws all figures, so it waits until that has run. The panel's
# player plays the page's first recording, which is the clean one. A circuit of nothing but the edge
# from the embeddings to the logits has no nodes and no panel.
SCRIPT = """
const again = document.getElementById("again");
if (again) again.src = document.querySelector("audio").src;
document.addEventListener("DOMContentLoaded", () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const facts = read("circuit-facts"), whole = read("circuit-data");
  const graph = document.getElementById("circuit"), time = document.getElementById("heard");
  const heard = time ? read("heard-data") : null;
  const slider = document.getElementById("n-edges"), select = document.getElementById("node");
  const rank = new Map(facts.order.map((edge, place) => [edge.join(), place]));
  function some(trace, names) {
    const kept = trace.customdata.map((name, i) => i).filter((i) => names.has(trace.customdata[i]));
    const pick = (values) => kept.map((i) => values[i]);
    const part = {...trace}, marker = {...trace.marker};
    for (const key of ["x", "y", "text", "customdata", "hovertext"]) part[key] = pick(trace[key]);
    for (const key of ["symbol", "size", "color"]) marker[key] = pick(trace.marker[key]);
    const is = part.customdata.map((name) => name === select.value);
    marker.line = {width: is.map((own) => own ? 3.5 : trace.marker.line.width),
      color: is.map((own) => own ? "#ff3d7f" : trace.marker.line.color)};
    return {...part, marker};
  }
  function draw() {
    const n = Number(slider.value);
    const isShown = (edge) => rank.get(edge.join()) < n;
    const names = new Set(whole.data.filter((t) => t.meta && t.meta.edge && isShown(t.meta.edge))
      .flatMap((t) => t.meta.ends));
    const data = whole.data.filter((t) => !t.meta || t.meta.nodes
      || (t.meta.edge ? isShown(t.meta.edge) : t.meta.link.every((name) => names.has(name))))
      .map((t) => t.meta && t.meta.nodes ? some(t, names) : t);
    Plotly.react(graph, data, whole.layout, config(graph));
    const judged = facts.faithfulness.filter(([size]) => size <= n).pop();
    document.getElementById("n-shown").textContent = n + " of " + facts.order.length
      + (judged ? "; faithfulness of the first " + judged[0] + ": " + judged[1] : "");
  }
  function show(name) {
    select.value = name;
    const node = facts.nodes[name];
    document.getElementById("effect").replaceChildren(...node.lines.map((line) => {
      const said = document.createElement("p");
      said.textContent = line;
      return said;
    }));
    document.getElementById("attention").style.display = node.attention ? "" : "none";
    if (node.attention) {
      const row = {...heard.data[0], ...node.attention};
      Plotly.react(time, [row, ...heard.data.slice(1)], heard.layout, config(time));
    }
    draw();
  }
  graph.on("plotly_click", (click) => {
    const name = click.points[0].customdata;
    if (facts.nodes[name]) show(name);
  });
  slider.addEventListener("input", draw);
  slider.value = slider.max;
  if (!select) {
    draw();
    return;
  }
  select.addEventListener("change", () => show(select.value));
  show(select.dataset.first);
});
"""
