"""The page of all heads over the sound at full size: its bytes, and how fluently it opens and hovers.

python benchmarks/thumbnails.py [--keep page.html]

Needs a `chromium` on the path.
"""

import argparse
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright
from shapes import N_AUDIO, SHAPES, thirty_seconds

import lens_audio as la
from lens_audio.plots.report import audio_html

LAYERS, HEADS = 32, 32
SECONDS, RATE = 30, 16000
# When the pictures of all heads were first drawn, in milliseconds from the start of loading.
OPENED = """const look = () => {
  const canvas = document.querySelector(".all canvas");
  if (canvas && canvas.style.height) window.opened = performance.now();
  else requestAnimationFrame(look);
}; requestAnimationFrame(look);"""
# Milliseconds that each of many moves of the pointer takes until the browser could paint.
HOVERED = """async () => {
  const over = document.querySelectorAll(".all canvas")[1], box = over.getBoundingClientRect();
  const times = [];
  for (let i = 0; i < 200; i++) {
    const x = box.left + 40 + (i * 97) % (box.width - 50), y = box.top + 4 + (i * 61) % (box.height - 30);
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    over.dispatchEvent(new MouseEvent("mousemove", {clientX: x, clientY: y}));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times;
}"""
# Milliseconds between the pictures of the playhead, for two seconds.
PLAYED = """async () => {
  await document.querySelector("audio").play();
  const times = [];
  for (let last = performance.now(), end = last + 2000; last < end;) {
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  return times;
}"""


def page() -> tuple[str, int]:
    """The page of random attention, and the bytes of the sound in it."""
    rng = np.random.default_rng(0)
    wave = (0.1 * rng.normal(size=SECONDS * RATE)).astype(np.float32)
    prompt = replace(
        thirty_seconds(SHAPES["46M"], "cpu", torch.float32), waveforms=[wave], sampling_rate=RATE
    )
    attention = rng.gamma(0.05, size=(LAYERS, HEADS, N_AUDIO))
    attention /= attention.sum(-1, keepdims=True)
    return la.plots.head_thumbnails(prompt, attention), len(audio_html(wave, RATE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    args = parser.parse_args()
    html, sound = page()
    total = len(html.encode())
    print(
        f"{LAYERS} layers x {HEADS} heads x {N_AUDIO} audio tokens: {(total - sound) / 1e6:.2f} MB, "
        f"and {sound / 1e6:.2f} MB of sound"
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = la.plots.write_page(args.keep or Path(folder) / "page.html", html)
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.add_init_script(OPENED)
        tab.goto(path.as_uri())
        moved, played = sorted(tab.evaluate(HOVERED)), sorted(tab.evaluate(PLAYED))
        opened = tab.evaluate("window.opened")
        browser.close()
    print(f"drawn {opened / 1000:.2f} s after the start of loading")
    for what, times in (("a move of the pointer", moved), ("a frame of the playhead", played)):
        late = times[int(0.95 * len(times))]
        print(f"{what}: painted after {statistics.median(times):.0f} ms (95 %: {late:.0f} ms)")


if __name__ == "__main__":
    main()
