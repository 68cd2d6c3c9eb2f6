"""Take docs/pictures/explorer.png in JupyterLab: python docs/make_explorer_picture.py

Needs the `notebook` and `dev` extras, and a `chromium` on the path.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Page, sync_playwright

PICTURE = Path(__file__).parent / "pictures" / "explorer.png"
CODE = """\
import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
item = la.testbed.demo_item()
prompt = model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)
la.explore(model, prompt, choices=item.choices)"""
EXPLORER = ".lens-audio-explorer"
TAB = f"{EXPLORER} [role=tab]"
# Where a head is on the screen.
HEAD = """(map, [head, layer]) => {
  const {x, y} = map.getBoundingClientRect(), {xaxis, yaxis} = map._fullLayout;
  return [x + xaxis._offset + xaxis.d2p(head), y + yaxis._offset + yaxis.d2p(layer)];
}"""


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A server over a folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", f"--port={port}", f"--ServerApp.root_dir={folder}",
               "--ServerApp.token=", "--ServerApp.password=", "--LabApp.news_url=None"]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"{address}/api/status")
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def take(page: Page, address: str) -> None:
    """Run the cell, collect two heads, keep only these, and take all above the tabs."""
    page.set_default_timeout(300_000)
    page.goto(f"{address}/lab/tree/explore.ipynb?reset")
    page.wait_for_selector(".jp-CodeCell .cm-content")
    page.wait_for_timeout(3000)  # the kernel is being started
    page.click(".jp-CodeCell .cm-content")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(f"{EXPLORER} .playhead", state="attached")
    page.wait_for_timeout(8000)  # figures are being drawn
    for head, layer in ((7, 2), (2, 0)):
        heads = page.locator(f"{EXPLORER} .js-plotly-plot").first
        page.mouse.click(*heads.evaluate(HEAD, [head, layer]))
        page.wait_for_selector(f"text=L{layer}H{head} · audio mass")
        page.click("button:has-text('add to the set')")
        page.wait_for_selector("button:has-text('take out of the set')")
    page.click("button:has-text('keep only these heads')")
    page.wait_for_selector("text=faithfulness")
    page.evaluate("document.querySelector('.lens-audio-player audio').currentTime = 1.84")
    page.wait_for_timeout(8000)
    box, tabs = (page.locator(it).first.bounding_box() for it in (EXPLORER, TAB))
    assert box is not None
    assert tabs is not None
    page.screenshot(path=PICTURE, clip={**box, "height": tabs["y"] - box["y"] - 8})


if __name__ == "__main__":
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no chromium on the path to take the picture with")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder)) as address,
        sync_playwright() as driver,
    ):
        nbformat.write(notebook, Path(folder) / "explore.ipynb")
        window = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        take(window.new_page(viewport={"width": 1440, "height": 2600}), address)
        window.close()
    print(PICTURE.name)
