"""Pages: whole, offline, and closed to what hostile names and questions would inject."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import soundfile
import torch
from plotly.offline import get_plotlyjs

from lens_audio.files import check_writable
from lens_audio.plots import choice_probabilities, write_page
from lens_audio.plots.report import (
    audio_html,
    escape,
    figure_html,
    page,
    safe_json,
    table_html,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&\u2028"


class Elements(HTMLParser):
    """The elements of a page, and the text of each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def hostile_page() -> str:
    figure = choice_probabilities([HOSTILE, "b"], [0.5, 0.5], [0.5, 0.5], answer=HOSTILE)
    body = f"<p>{escape(HOSTILE)}</p>" + table_html([HOSTILE], [[HOSTILE]])
    return page(HOSTILE, body + figure_html(figure, "answers"))


def test_hostile_text_stays_text() -> None:
    elements = Elements(hostile_page())
    tags = [tag for tag, _ in elements.found]
    assert "img" not in tags
    assert tags.count("script") == 3  # plotly, the figure's data, the page's own
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)


def test_figures_come_back_from_the_page_as_they_were() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=HOSTILE))
    html = figure_html(figure, "one")
    data = re.search(r'<script type="application/json" id="one-data">(.*)</script>', html)[1]
    assert "<" not in data
    assert json.loads(data)["data"][0]["name"] == HOSTILE


def test_safe_json_is_the_same_json() -> None:
    value = {"a": HOSTILE, "b": "<!-- <script>"}
    text = safe_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert not re.search("[<\u2028\u2029]", text)


def test_the_page_loads_nothing() -> None:
    text = hostile_page()
    assert "default-src 'none'" in text
    own = text.replace(get_plotlyjs(), "")
    assert not re.search(r"https?:|//cdn|@import|url\(", own)
    for tag, attrs in Elements(text).found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href"} & set(attrs) or attrs["src"].startswith("data:")


def test_plotly_is_embedded_once() -> None:
    assert hostile_page().count(get_plotlyjs()) == 1


def test_sound_is_embedded_as_16_bit_wav() -> None:
    wave = np.sin(np.arange(1600) / 9).astype(np.float32)
    html = audio_html(wave, 16000)
    data = re.search(r'src="data:audio/wav;base64,([^"]+)"', html)[1]
    file = io.BytesIO(base64.b64decode(data))
    assert soundfile.info(file).subtype == "PCM_16"
    file.seek(0)
    back, rate = soundfile.read(file, dtype="float32")
    assert rate == 16000
    np.testing.assert_allclose(back, wave, atol=1 / 32000)


def test_a_page_replaces_the_earlier_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, "one")
    assert write_page(path, "two").read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_page_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_page(tmp_path / "page.html", "one")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_writable(tmp_path / "none" / "page.html")
    with pytest.raises(IsADirectoryError, match="not a regular file"):
        check_writable("/dev/null")
    assert check_writable(tmp_path / "page.html") == tmp_path / "page.html"
    assert list(tmp_path.iterdir()) == []


def test_tensors_of_any_dtype_can_be_drawn() -> None:
    from lens_audio.plots import head_map

    assert figure_html(head_map(torch.rand(2, 2).bfloat16()), "heads")
