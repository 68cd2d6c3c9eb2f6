"""`la.explore` in JupyterLab and Notebook, clicked."""

import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from figures import click, holds, in_view, playhead_near

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
pytestmark = pytest.mark.browser

CODE = """\
import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
item = la.testbed.demo_item()
prompt = model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)
explorer = la.explore(model, prompt, choices=item.choices)
explorer"""
PLACES = {"JupyterLab": "lab/tree/explore.ipynb?reset", "Notebook": "notebooks/explore.ipynb"}
PLOTS = "[...document.querySelectorAll('.lens-audio-explorer .js-plotly-plot')]"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def jupyter(tmp_path, request):
    """A server over a folder with one notebook; the address of that notebook."""
    module = {"JupyterLab": "jupyterlab", "Notebook": "notebook"}[request.param]
    pytest.importorskip(module)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    port = free_port()
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", f"--port={port}",
               "--ServerApp.token=", "--ServerApp.password=", f"--ServerApp.root_dir={tmp_path}",
               "--LabApp.news_url=None"]  # fmt: skip
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status")
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/{PLACES[request.param]}"
    finally:
        server.terminate()
        server.wait(20)


def open_and_run(page, address):
    page.goto(address)
    page.wait_for_selector(".jp-CodeCell .cm-content")
    page.wait_for_timeout(3000)  # the kernel is being started
    page.complaints.clear()  # what the front end says of itself
    page.click(".jp-CodeCell .cm-content")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".lens-audio-explorer")
    assert holds(page, "document.querySelectorAll('.lens-audio-explorer .main-svg').length >= 12")
    page.wait_for_selector(".lens-audio-explorer .playhead", state="attached")


def saved_and_opened_again(page):
    """The explorer in the next cell, of the state that this one saves beside its page."""
    for kind in ("state (JSON)", "page (HTML)"):
        page.click(f"button:has-text('Save {kind}')")
        page.wait_for_selector(f"text=/Saved: .*{kind[-5:-1].lower()}$/")
    page.click(".jp-Cell:last-child .cm-content")
    page.keyboard.type("la.explore(model, prompt, state='explorer.json')")
    page.keyboard.press("Shift+Enter")
    return page.locator(".lens-audio-explorer").nth(1)


@pytest.mark.parametrize("jupyter", list(PLACES), indirect=True)
def test_the_explorer_is_used(jupyter, page):
    open_and_run(page, jupyter)
    figures = page.query_selector_all(".lens-audio-explorer .js-plotly-plot")
    head_map, _, over_time, _ = figures
    assert holds(page, f"{PLOTS}.every((f) => f.clientWidth === f._fullLayout.width)")

    click(page, head_map, 6, 1, f"{PLOTS}[2].data[0].y[0] == 'L1H6'")
    page.wait_for_selector("text=L1H6 · audio mass")
    assert holds(page, in_view("Without it (its z corrupted)"), seconds=30)
    page.click("button:has-text('add to the set')")
    page.wait_for_selector("button:has-text('take out of the set')")
    page.click("button:has-text('keep only these heads')")
    page.wait_for_selector("text=faithfulness")
    assert holds(page, f"{PLOTS}[1].data.length == 3")

    page.evaluate("document.querySelector('.lens-audio-player audio').currentTime = 1.8")
    assert holds(page, playhead_near(1.8))
    click(page, over_time, 1.0, 0, playhead_near(1.0))
    page.keep("explorer-top", full_page=False)

    page.click("[role=tab]:has-text('Patching')")
    page.click("button:has-text('Run')")
    page.wait_for_selector("text=32 cells; each patches")
    assert holds(page, f"{PLOTS}[0].data[0].zmin < 0")
    wide = f"{PLOTS}[4]._fullLayout.width === {PLOTS}[4].parentElement.clientWidth"
    assert holds(page, f"{PLOTS}.length === 5 && {PLOTS}[4]._fullLayout && {wide}", seconds=30)
    sweep = page.query_selector_all(".lens-audio-explorer .js-plotly-plot")[4]
    click(page, sweep, 2, 0, f"{PLOTS}[2].data[0].y[0] == 'L0H2'")
    page.keep("explorer-patching", full_page=False)


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
@pytest.mark.parametrize("jupyter", ["JupyterLab"], indirect=True)
def test_what_it_shows_is_saved(jupyter, page, tmp_path, chromium):
    """After a click on a sweep over time, which selects a layer and some seconds."""
    open_and_run(page, jupyter)
    page.click("[role=tab]:has-text('Patching')")
    page.select_option("select:has(option:text-is('layer × time'))", label="layer × time")
    page.click("button:has-text('Run')")
    page.wait_for_selector("text=48 cells; each patches")
    sweep = page.query_selector_all(".lens-audio-explorer .js-plotly-plot")[4]
    click(page, sweep, 1.8, 2, f"{PLOTS}[2].data[0].y[0].startsWith('L2H')")
    page.wait_for_selector("text=/Layer 2: selected L2H., which attends most there/")
    page.click("button:has-text('add to the set')")
    page.fill("textarea[placeholder^=Notes]", "it hears <glass>")
    page.keyboard.press("Tab")
    again = saved_and_opened_again(page)
    for words in (
        "As it was saved. In Python: explorer.result",
        "take out of the set",
        "1.75 – 2.00",
    ):
        again.locator(f"text={words}").first.wait_for(state="attached")
    assert again.locator("textarea").input_value() == "it hears <glass>"

    offline = chromium.new_page(offline=True)
    complaints = []
    offline.on("pageerror", lambda error: complaints.append(str(error)))
    offline.goto((tmp_path / "explorer.html").as_uri())
    assert holds(offline, "document.querySelectorAll('.figure > .plot-container').length === 5")
    text = offline.inner_text("main")
    for words in ("it hears <glass>", "Tokens: L2H", "Without it (its z corrupted)"):
        assert words in text
    offline.evaluate("document.querySelector('audio').currentTime = 1")
    assert holds(offline, playhead_near(1.0), seconds=30)
    offline.close()
    assert complaints == []


@pytest.mark.parametrize("jupyter", ["JupyterLab"], indirect=True)
def test_a_running_sweep_is_stopped(jupyter, page):
    open_and_run(page, jupyter)
    page.click("[role=tab]:has-text('Patching')")
    page.select_option("select:has(option:text-is('resid_mid'))", label="resid_pre")
    # The kernel answers with the axes of this site, after which one is chosen.
    axes = (
        "select:has(option:text-is('layer × position')):not(:has(option:text-is('layer × head')))"
    )
    page.wait_for_selector(axes)
    page.select_option(axes, label="layer × position")
    page.click("button:has-text('Run')")
    page.click("button:has-text('Stop'):not([disabled])")
    page.wait_for_selector("text=/Stopped at|500 cells/")
    page.wait_for_selector("button:has-text('Run'):not([disabled])")


def edges_drawn(plot):
    """How many edges a figure shows, each by a line and what is hovered on."""
    return f"{plot}.data.filter((t) => t.meta && t.meta.edge).length / 2"


@pytest.mark.parametrize("jupyter", ["JupyterLab"], indirect=True)
def test_edges_are_found_clicked_saved_and_opened_again(jupyter, page, tmp_path, chromium):
    open_and_run(page, jupyter)
    page.click("[role=tab]:has-text('Edges')")
    page.click("button:has-text('Find edges')")
    page.wait_for_selector("text=20 of 1,519 edges")
    graph = f"{PLOTS}[4]"
    assert holds(page, f"{PLOTS}.length === 5 && {graph}.data && {edges_drawn(graph)} === 20")
    wide = f"{graph}.parentElement.clientWidth"
    assert holds(page, f"Math.abs({graph}._fullLayout.width - {wide}) < 1", seconds=30)
    assert page.evaluate(f"{graph}._context.toImageButtonOptions.format") == "svg"
    nodes = f"{graph}.data.find((t) => t.mode === 'markers+text')"
    assert page.evaluate(f"{graph}.querySelectorAll('.textpoint').length") == page.evaluate(
        f"{nodes}.customdata.length"
    )

    name, x, y = page.evaluate(
        f"(() => {{ const nodes = {nodes}, i = nodes.customdata.findIndex((n) => n[2] === 'H');"
        "return ['customdata', 'x', 'y'].map((key) => nodes[key][i]); })()"
    )
    figure = page.query_selector_all(".lens-audio-explorer .js-plotly-plot")[4]
    click(page, figure, x, y, f"{PLOTS}[2].data[0].y[0] === '{name}'")
    page.wait_for_selector("text=/Direct effect on logit.glass. - logit.knock./")
    rims = f"{nodes}.customdata.filter((name, i) => {nodes}.marker.line.width[i] > 2)"
    assert holds(page, f"{rims}.join() === '{name}'")
    page.click("button:has-text('Faithfulness of these edges')")
    page.wait_for_selector("text=/^faithfulness -?[0-9.]+$/")
    page.keep("explorer-edges", full_page=False)

    slider = page.locator("[role=slider]:visible, .noUi-handle:visible").last
    slider.press("ArrowRight")
    page.wait_for_selector("text=21 of 1,519 edges")
    assert holds(page, f"{edges_drawn(graph)} === 21")
    page.click("button:has-text('Add these heads to the working set')")
    page.wait_for_selector("text=/In the working set: L.H/")

    again = saved_and_opened_again(page)
    again.locator("text=21 of 1,519 edges").wait_for(state="attached")

    offline = chromium.new_page(offline=True)
    offline.goto((tmp_path / "explorer.html").as_uri())
    drawn = edges_drawn("document.querySelector('#circuit')")
    assert holds(offline, f"document.querySelector('#circuit').data && {drawn} === 21")
    assert offline.input_value("#node") == name
    offline.fill("#n-edges", "3")
    assert holds(offline, f"{drawn} === 3")
    assert holds(offline, "document.querySelector('#again').readyState > 0")
    offline.close()
