"""Plotly, sent to the browser once and compressed: each of plotly's own widgets carries all of it."""

import gzip

import anywidget
import plotly
import traitlets
from plotly.basewidget import BaseFigureWidget

# Plotly is unpacked once a page. What Python asks of a figure before that waits.
FIGURE_MODULE = """
const shared = (globalThis.lensAudioPlotly ??= new Map());

async function plotly(model) {
  const id = model.get("source").replace("IPY_MODEL_", "");
  const source = await model.widget_manager.get_model(id);
  const version = source.get("version");
  if (!shared.has(version)) shared.set(version, unpacked(source.get("code")));
  return shared.get(version);
}

async function unpacked(code) {
  const stream = new Blob([code]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = new Blob([await new Response(stream).text()], {type: "text/javascript"});
  const url = URL.createObjectURL(script);
  try { return (await import(url)).default; } finally { URL.revokeObjectURL(url); }
}

const REQUESTS = ["addTraces", "restyle", "relayout", "update", "animate", "deleteTraces",
  "moveTraces", "removeLayoutProps", "removeTraceProps"].map((name) => `_py2js_${name}`);

export default () => {
  let figure = null, loaded = null;
  return {
    initialize({model}) {
      const early = [];
      const waiting = REQUESTS.map((name) => [`change:${name}`, () => {
        if (model.get(name)) early.push([name, model.get(name)]);
      }]);
      for (const [event, keep] of waiting) model.on(event, keep);
      loaded = plotly(model).then(async (make) => {
        for (const [event, keep] of waiting) model.off(event, keep);
        figure = await make();
        await figure.initialize({model});
        for (const [name, asked] of early) { model.set(name, asked); model.set(name, null); }
      });
    },
    async render({model, el}) { await loaded; return figure.render({model, el}); },
  };
};
"""


class PlotlySource(anywidget.AnyWidget):
    """Plotly's own widget module, compressed, where the figures of a page find it."""

    _esm = "export default {};"
    code = traitlets.Bytes().tag(sync=True)
    version = traitlets.Unicode(plotly.__version__).tag(sync=True)
    _made: "PlotlySource | None" = None

    @classmethod
    def get(cls) -> "PlotlySource":
        """The one of this kernel; another, if that was closed."""
        if cls._made is None or cls._made.comm is None:
            module = str(BaseFigureWidget._esm).encode()
            cls._made = cls(code=gzip.compress(module, compresslevel=1, mtime=0))
        return cls._made
