"""Figures on pages in a browser: their buttons, and the thumbnails of all heads."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import holds, overflow

from lens_audio import HookedAudioTransformer, analysis, testbed
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.plots import head_thumbnails, patching_heatmap
from lens_audio.plots.report import figure_html, write_page
from lens_audio.plots.report import page as whole_page

pytestmark = pytest.mark.browser
RECOVERY = torch.tensor([[0.125, -0.0625, 0.0], [0.25, 0.03125, -0.125]])
one_size = pytest.mark.parametrize("page", ["desktop"], indirect=True)
WINDOWS = ["0.00-0.50 s", "0.50-1.00 s", "1.00-1.50 s"]


@pytest.fixture
def sweep(tmp_path: Path, page: Any) -> Any:
    """The page of one map of small recoveries, open."""
    result = PatchingResult(
        RECOVERY[None, :, :, None],
        {"metric": ["logit difference"], "layer": ["0", "1"], "group": WINDOWS, "example": ["0"]},
        torch.zeros(1, 1),
        torch.ones(1, 1),
        {"site": "resid_pre", "direction": "denoise"},
    )
    figure = figure_html(patching_heatmap(result, recovery=True), "sweep")
    page.goto(write_page(tmp_path / "page.html", whole_page("sweep", figure)).as_uri())
    page.wait_for_selector(".figure .main-svg")
    return page


def downloaded(page: Any, button: str) -> tuple[str, str]:
    """The name and the text of the file that a figure's own button saves."""
    page.hover(".figure")
    with page.expect_download(timeout=30_000) as download:
        page.click(f'.modebar-btn[data-title="{button}"]', timeout=30_000)
    return download.value.suggested_filename, Path(download.value.path()).read_text()


def test_the_zoom_button_stretches_the_colours_says_how_far_and_goes_back(sweep: Any) -> None:
    limit = "document.querySelector('#sweep')._fullData[0].zmax"
    assert sweep.evaluate(limit) == 1
    for zmax, title in ((0.25, "zoomed × 4"), (1, "recovery")):
        sweep.click(".updatemenu-button")
        assert holds(sweep, f"{limit} === {zmax}", seconds=10)
        assert sweep.text_content(".cbtitle").startswith(title)
        assert sweep.evaluate("document.querySelector('#sweep')._fullData[0].zmin") == -zmax


@one_size
def test_the_data_are_saved_as_csv(sweep: Any) -> None:
    name, text = downloaded(sweep, "Download data as CSV")
    assert name == "sweep.csv"
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["series", "x", "x_end", "y", "value", "text"]
    found = {(float(y), float(x), float(end)): float(value) for _, x, end, y, value, _ in rows}
    assert found == {
        (layer, window / 2, window / 2 + 0.5): float(RECOVERY[layer, window])
        for layer in range(2)
        for window in range(3)
    }
    assert {row[0] for row in rows} == {"recovery of logit difference"}
    assert rows[-1][5] == "layer 1, 1.00-1.50 s"


@one_size
def test_the_figure_is_saved_as_svg(sweep: Any) -> None:
    name, text = downloaded(sweep, "Download plot")
    assert name == "sweep.svg"
    assert text.startswith("<svg")
    for words in ("time (s)", "layer", "1: all of it", ">0.25<"):
        assert words in text


# Where the picture of a head is in the window, and whether a point of it is as pink as a playhead.
THUMBNAIL = """([layer, head, share]) => {
  const canvas = document.querySelectorAll(".all canvas")[1], box = canvas.getBoundingClientRect();
  const step = (box.width - 30) / 8, high = Math.max(16, Math.min(56, (step - 2) * 0.6)) + 2;
  const x = 30 + head * step + share * (step - 2), y = 2 + (3 - layer) * high + high / 2;
  const dots = canvas.width / box.width;
  const [red, green] = canvas.getContext("2d").getImageData(x * dots - 1, y * dots, 3, 1).data
    .reduce(([r, g], part, i) => (i % 4 ? (i % 4 === 1 ? [r, Math.max(g, part)] : [r, g])
      : [Math.max(r, part), g]), [0, 0]);
  return {x: box.left + x, y: box.top + y, isPink: red > 200 && green < 120};
}"""


def test_thumbnails_tell_of_the_head_under_the_pointer_and_follow_the_sound(
    tmp_path: Path, page: Any
) -> None:
    model = HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir())
    item = testbed.demo_item()
    prompt = model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)
    attention = analysis.audio_attention(model, prompt)[0]
    path = write_page(tmp_path / "all.html", head_thumbnails(prompt, attention))
    page.goto(path.as_uri())
    page.wait_for_selector(".thumbnails .all canvas")
    assert holds(page, "document.querySelector('audio').readyState > 0")
    assert overflow(page) <= 0
    page.query_selector(".thumbnails").scroll_into_view_if_needed()
    where = page.evaluate(THUMBNAIL, [2, 7, 0.65])
    page.mouse.move(where["x"], where["y"])
    said = page.inner_text(".said")
    assert said.startswith(f"L2H7: audio mass {100 * float(attention[2, 7].sum()):.1f} %; 1.8")
    page.mouse.click(where["x"], where["y"])
    seconds = 0.65 * float(prompt.audio_times(0)[-1, 1])
    time = "document.querySelector('audio').currentTime"
    assert holds(page, f"Math.abs({time} - {seconds}) < 0.05", seconds=10)
    for layer, head in ((0, 0), (3, 5)):
        shown = f"({THUMBNAIL})([{layer}, {head}, {time} / {seconds} * 0.65]).isPink"
        assert holds(page, shown, seconds=10)
        assert not page.evaluate(THUMBNAIL, [layer, head, 0.2])["isPink"]
    page.keep("thumbnails")
