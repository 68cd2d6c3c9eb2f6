"""Draw docs/pictures/*.svg on the embedded checkpoint: python docs/make_pictures.py

Needs a `chromium` on the path. The figures are transparent, so they suit a light and a dark page.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from functools import cache
from html import unescape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

import lens_audio as la
from lens_audio.analysis import metrics, patching, path_patching, robustness
from lens_audio.cli.heads import held_out
from lens_audio.plots.narrow import fitted
from lens_audio.plots.theme import BLUE, ORANGE, styled

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
WIDTH = 760.0  # of the page's text, in pixels
PAGE = """<!DOCTYPE html><meta charset="utf-8"><body><div id="figure"></div>
<script>{plotly}</script><script>
Plotly.newPlot("figure", {figure})
  .then((plot) => Plotly.toImage(plot, {{format: "svg", width: {width}, height: {height}}}))
  .then((url) => {{ document.body.textContent = decodeURIComponent(url.split(",").slice(1).join()); }});
</script>"""

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
item = la.testbed.demo_item()
prompt = model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)
right = model.to_single_token(item.answer)
wrong = [model.to_single_token(word) for word in item.choices if word != item.answer]
metric = metrics.logit_diff(right, [wrong])


def attention_over_time() -> go.Figure:
    attention = la.analysis.audio_attention(model, prompt)[0]
    heads = la.analysis.top_heads(la.analysis.audio_mass(attention), 6)
    rows = attention[tuple(zip(*heads, strict=True))]
    return la.plots.attention_over_time(prompt, rows, heads, span=(item.onset, item.offset))


def head_map() -> go.Figure:
    mass = la.analysis.audio_mass(la.analysis.audio_attention(model, prompt))[0]
    heads = la.analysis.top_heads(mass, 4)
    return la.plots.head_map(mass, outlined=heads, limits=(0.0, 1.0))


def patching_by_time() -> go.Figure:
    windows = patching.time_windows(prompt, 0.25)
    return patching.sweep(
        model, prompt, prompt.silenced(), "resid_pre", metric, positions=windows
    ).plot(recovery=True)


def patching_by_head() -> go.Figure:
    return patching.sweep(
        model, prompt, prompt.silenced(), "z", metric, positions="last", heads="each"
    ).plot(recovery=True)


def attribution_by_head() -> go.Figure:
    direction = model.tokens_to_residual_directions(right)
    direction = direction - sum(model.tokens_to_residual_directions(t) for t in wrong) / len(wrong)
    split = la.analysis.head_attribution_by_source(model, prompt, direction)
    return la.plots.attribution_by_source(split)


def path_to_logits() -> go.Figure:
    found = path_patching.path_patch(model, prompt, prompt.silenced(), metric, verbose=False)
    return found.plot(recovery=True)


def logit_lens() -> go.Figure:
    log_probs = la.analysis.logit_lens(model, prompt, positions=range(-6, 0))[0]
    names = [repr(token)[1:-1] for token in prompt.str_tokens(0)[-6:]]
    return la.plots.logit_lens_table(log_probs, model.to_single_str_token, names)


@cache
def steering_report() -> la.steering.SteeringReport:
    """What `lens-audio steer --full` measures."""
    calibrating, testing = held_out(300, 3001), held_out(300, 3002)
    found = la.steering.calibrate(model, calibrating, specialists_from="conflict", seed=3001)
    return la.steering.report(model, found, testing, n_draws=10, seed=3001)


def listening_scores() -> go.Figure:
    found = steering_report()
    scores, by_audio = found.scores[found.conflict], found.by_audio[found.conflict]
    groups = {"answered by the audio": scores[by_audio], "by the caption": scores[~by_audio]}
    return la.plots.score_distributions(groups)


def steering_curve() -> go.Figure:
    return la.plots.steering_curve(steering_report().curves)


def robustness_curve() -> go.Figure:
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir("emergent"))
    found = robustness.measure(
        model,
        la.testbed.make_scene_items(24, seed=1207),
        la.testbed.truth("emergent").readers,
        noise_db=(50, 40, 30, 20, 10, 0),
        attack_db=(60, 50, 40, 30),
        target="answer",
        steps=10,
    )
    return found.plot()


def rooms() -> go.Figure:
    """The rooms of the package, each above those that it imports from, as pyproject.toml has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    figure, y = go.Figure(), 0.0
    for layer in layers:
        names = [name.strip(" ()") for name in re.split(r"[|:]", layer)]
        names = [name for name in names if list((ROOT / "lens_audio").glob(f"{name}*"))]
        for line in (names[i : i + 7] for i in range(0, len(names), 7)):
            for place, name in enumerate(line):
                x0, x1 = place / len(line), (place + 1) / len(line) - 0.01
                figure.add_shape(type="rect", x0=x0, x1=x1, y0=y, y1=y + 0.8, line_color=BLUE)
                figure.add_annotation(x=(x0 + x1) / 2, y=y + 0.4, text=name, showarrow=False)
            y += 1
    figure.add_annotation(
        x=1.04, y=y - 0.2, ax=1.04, ay=0, axref="x", ayref="y",
        text="", arrowcolor=ORANGE, arrowhead=2, arrowwidth=2,
    )  # fmt: skip
    figure.add_annotation(x=1.07, y=y / 2, text="imports", textangle=90, showarrow=False)
    figure.update_xaxes(visible=False, range=[0, 1.1])
    figure.update_yaxes(visible=False, range=[y, 0])
    return styled(figure, height=30 * int(y), margin={"l": 10, "r": 10, "t": 10, "b": 10})


FIGURES: dict[str, Callable[[], go.Figure]] = {
    function.__name__: function
    for function in (
        attention_over_time,
        head_map,
        patching_by_time,
        patching_by_head,
        attribution_by_head,
        path_to_logits,
        logit_lens,
        listening_scores,
        steering_curve,
        robustness_curve,
        rooms,
    )
}


def svg(figure: go.Figure) -> str:
    """The figure as plotly draws it in a browser, without buttons."""
    figure.layout.updatemenus = None
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no chromium on the path to draw with")
    figure = fitted(figure, WIDTH)
    page = PAGE.format(
        plotly=get_plotlyjs(),
        figure=figure.to_json().replace("<", "\\u003c"),
        width=WIDTH,
        height=figure.layout.height,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figure.html"
        file.write_text(page)
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--disable-background-networking", "--virtual-time-budget=20000", file.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"&lt;svg.*&lt;/svg&gt;", dom, flags=re.DOTALL)
    if found is None:
        raise SystemExit("the browser drew nothing")
    return unescape(found[0]) + "\n"


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or FIGURES:
        (PICTURES / f"{name}.svg").write_text(svg(FIGURES[name]()))
        print(name)
