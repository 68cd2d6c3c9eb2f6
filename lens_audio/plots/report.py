"""Self-contained HTML pages: figures, sound and text in one file that needs no network.

All text goes through `escape`, all data through `safe_json`; a content security policy forbids
the page to load anything, whatever it holds.
"""

import base64
import html
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import soundfile
import torch
from jaxtyping import Float
from plotly.offline import get_plotlyjs

from lens_audio.files import write_text
from lens_audio.fingerprint import versions
from lens_audio.inputs import AudioPrompt
from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.assets import PLAYHEAD_STYLE, SCRIPT, STYLE

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; media-src data:"
)


def escape(text: object) -> str:
    """Text as HTML, in an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def safe_json(text: str) -> str:
    """JSON that may stand inside a script element: no `<`, so no `</script>` and no `<!--`."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def figure_html(figure: go.Figure, name: str, over_time: bool = False) -> str:
    """A figure, drawn when the page opens.

    Args:
        name: its element's id, unlike any other of the page.
        over_time: its x axis is the sound's time in seconds: it gets the playhead, and clicks seek.
    """
    spec = json.loads(figure.to_json())
    spec["layout"].pop("template", None)
    spec["layout"].pop("width", None)
    data = safe_json(json.dumps(spec, ensure_ascii=True))
    time = ' data-time="1"' if over_time else ""
    height = spec["layout"].get("height", 450)
    return (
        f'<div class="figure" id="{escape(name)}"{time} style="height:{height:d}px"></div>'
        f'<script type="application/json" id="{escape(name)}-data">{data}</script>'
    )


def wav_bytes(waveform: Float[Array, " samples"], sampling_rate: int) -> bytes:
    """The sound as a WAV file of 16-bit PCM; samples beyond -1 and 1 are clipped."""
    file = io.BytesIO()
    samples = np.clip(as_array(waveform, "samples"), -1, 1)
    soundfile.write(file, samples, sampling_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def audio_html(waveform: Float[Array, " samples"], sampling_rate: int) -> str:
    """A player of the sound, which is part of the page as 16-bit PCM."""
    data = base64.b64encode(wav_bytes(waveform, sampling_rate)).decode()
    return f'<audio controls preload="auto" src="data:audio/wav;base64,{data}"></audio>'


def player(prompt: AudioPrompt) -> str:
    """A player of the first recording of a prompt, nothing where its samples are not known."""
    waveforms = prompt.waveforms
    return audio_html(waveforms[0], prompt.sampling_rate) if waveforms else ""


def table_html(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of text cells."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def section(title: str | None, *parts: str) -> str:
    """A part of a page: a heading, and what stands below it as HTML."""
    heading = "" if title is None else f"<h2>{escape(title)}</h2>"
    return f"<section>{heading}{''.join(parts)}</section>"


def note(said: str) -> str:
    """A paragraph of explanation, of a text that is HTML already; "95 %" stays on one line."""
    return f'<p class="note">{said.replace(" %", "&nbsp;%")}</p>'


def label(text: str) -> str:
    """A small heading inside a section."""
    return f'<p class="label">{escape(text)}</p>'


def columns(left: str, right: str, even: bool = False) -> str:
    """Two parts beside each other where there is room, the right one wider unless they are `even`."""
    return f'<div class="grid{" even" * even}"><div>{left}</div><div>{right}</div></div>'


def code(text: str) -> str:
    """A command or a name, as it is typed."""
    return f"<code>{escape(text)}</code>"


def said_versions(versions: Mapping[str, str]) -> str:
    """`lens_audio 0.1.0, torch 2.8.0`."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def own_versions() -> str:
    """What a page is made with; of torch the build, too."""
    return said_versions(versions() | {"torch": torch.__version__})


def report(
    title: str,
    about: Sequence[str],
    sections: Sequence[str],
    footer: Sequence[str],
    tab: str | None = None,
) -> str:
    """The page of a result.

    Args:
        about: what stands under the title, as plain text.
        sections: HTML, each by `section`.
        footer: what made it, as HTML.
        tab: the title of the browser's tab, by default the page's.
    """
    header = f"<header><h1>{escape(title)}</h1><p>{escape(' · '.join(about))}</p></header>"
    body = [header, *sections, f"<footer>{' · '.join(footer)}</footer>"]
    return page(title if tab is None else tab, "\n".join(body))


def page(title: str, body: str) -> str:
    """The whole page around a body that is HTML already; it holds plotly if the body has a figure."""
    plotly = f"<script>{get_plotlyjs()}</script>" if 'class="figure"' in body else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{STYLE}{PLAYHEAD_STYLE}</style>
{plotly}
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def write_page(path: str | os.PathLike[str], content: str) -> Path:
    """Write a page whole or not at all: an earlier file stays until the new one is complete.

    Raises:
        OSError: if the path cannot be written.
    """
    return write_text(path, content)
