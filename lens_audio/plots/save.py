"""A figure as a file for a paper: PDF, SVG or PNG, of a journal's column width."""

import copy
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from lens_audio.files import AnyPath, check_writable, write_bytes
from lens_audio.plots.narrow import fitted
from lens_audio.plots.theme import INK

FORMATS = ("pdf", "svg", "png")
WIDTHS = {"column": 89.0, "page": 183.0}  # mm: one and two columns, as in Nature
LENGTH = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(mm|cm|in|pt)\s*")
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "in": 25.4, "pt": 25.4 / 72}
PIXEL = 25.4 / 96  # mm, of PDF and SVG
POINTS = 7.0  # of a figure's text on paper, which is 13 pixels on the screen
SHRUNK = POINTS * (96 / 72) / 13  # lines, markers and margins by as much, so that they fit together
DPI = 600  # of PNG
# Kaleido prints a PDF with margins of 0.1 inch on a page as large as the figure, which cuts it.
WHOLE_PAGE = "<style>@page { margin: 0 !important; }</style>"

PAPER_INK = "#262626"  # 15:1 on white
COLOUR = re.compile(r"rgba?\(([^)]*)\)")
WITHOUT_CHROME = (
    "kaleido draws figures with Chrome or Chromium and finds none: install one, or run "
    "plotly_get_chrome in a shell. Without it, the camera button of a page of lens_audio saves SVG, "
    "and figure.write_html a page"
)


def save(
    figure: go.Figure,
    path: AnyPath,
    style: str = "paper",
    *,
    width: str = "column",
    height: str | None = None,
) -> Path:
    """Write a figure as PDF, SVG or PNG (600 dots an inch), by the ending of its name.

    Numbers in cells too narrow for them at 5 points are left out; so are buttons and sliders.

    Args:
        style: "paper" is dark ink on white, text of 7 points and nothing transparent; "screen" is
            the figure's own look, with the ground transparent.
        width: "column" (89 mm), "page" (two columns: 183 mm), or a length such as "3.25 in" or
            "120 mm".
        height: a length; by default as on the screen.

    Returns:
        The file's absolute path.

    Raises:
        ValueError: for another ending, style, or length.
        ModuleNotFoundError: without kaleido, which the `notebook` extra installs.
        RuntimeError: without Chrome or Chromium.
        OSError: if the path cannot be written.
    """
    path = check_writable(path)
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise ValueError(f"{path.name} ends in none of .pdf, .svg and .png")
    if style not in ("paper", "screen"):
        raise ValueError(f"style={style!r}; there are 'paper' and 'screen'")
    wide = _pixels(width, "width")
    shown = fitted(figure, wide, None if height is None else _pixels(height, "height"))
    size = {"width": wide, "height": shown.layout.height}
    return write_bytes(path, _drawn(for_paper(shown) if style == "paper" else shown, ending, size))


def for_paper(figure: go.Figure) -> go.Figure:
    """A copy in dark ink on white, without anything transparent; the figure stays as it was.

    Bands, which would hide one another, become outlines; what only shows hover text is left out.
    """
    spec = copy.deepcopy(figure.to_plotly_json())
    spec["data"] = [_solid(trace) for trace in spec["data"] if not _is_invisible(trace)]
    for old in [key for key in ("template", "width") if key in spec["layout"]]:
        del spec["layout"][old]
    spec = _recoloured(spec)
    white = {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "template": "none"}
    return go.Figure(spec).update_layout(**white)


def _drawn(figure: go.Figure, ending: str, size: dict[str, float]) -> bytes:
    if find_spec("kaleido") is None:
        raise ModuleNotFoundError(
            'saving a figure needs kaleido, which is not installed: pip install "lens_audio[notebook]"'
        )
    scale = SHRUNK * DPI / 96 if ending == "png" else SHRUNK
    kaleido = import_module("kaleido")
    page = kaleido.PageGenerator()
    page.header += WHOLE_PAGE
    options = {"format": ending, "scale": scale, **size}
    try:
        return kaleido.calc_fig_sync(figure, options, kopts={"page_generator": page})
    except RuntimeError as error:
        if "chrome" not in str(error).lower():
            raise
        raise RuntimeError(WITHOUT_CHROME) from error


def _pixels(length: str, name: str) -> float:
    """Of the figure, before it is shrunk."""
    return _millimetres(length, name) / (PIXEL * SHRUNK)


def _millimetres(length: str, name: str) -> float:
    if length in WIDTHS:
        return WIDTHS[length]
    found = LENGTH.fullmatch(str(length))
    if found is None or not float(found[1]):
        names = " or ".join(repr(name) for name in WIDTHS)
        raise ValueError(
            f'{name}={length!r}; give {names}, or a length such as "89 mm" or "3.5 in"'
        )
    return float(found[1]) * MILLIMETRES[found[2]]


def _is_invisible(trace: dict[str, Any]) -> bool:
    """Whether it is there for its hover text alone."""
    return 0 in (trace.get("opacity"), trace.get("marker", {}).get("opacity"))


def _solid(trace: dict[str, Any]) -> dict[str, Any]:
    """A trace without an opacity; a translucent band is its outline."""
    opacity = trace.pop("opacity", 1)
    if trace.get("fill") == "toself" and _alpha(trace.get("fillcolor", "")) < 1:
        colour = _with_alpha(trace.pop("fillcolor"), 0.6)
        return trace | {"fill": "none", "mode": "lines", "line": {"width": 0.9, "color": colour}}
    marker, line = trace.get("marker", {}), trace.get("line", {})
    for part, share in ((line, opacity), (marker, opacity * marker.pop("opacity", 1))):
        if share < 1 and str(part.get("color", "")).startswith("#"):
            part["color"] = _on_white(part["color"], share)
    return trace


def _recoloured(spec: Any) -> Any:
    """The same, of the ink of paper, and every translucent colour as it looks on white."""
    if isinstance(spec, dict):
        return {key: _recoloured(value) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [_recoloured(value) for value in spec]
    if not isinstance(spec, str):
        return spec
    if spec.lower() == INK:
        return PAPER_INK
    return _on_white(spec) if COLOUR.fullmatch(spec) else spec


def _channels(colour: str) -> list[float]:
    """Red, green, blue, 0 to 255, and opacity, 0 to 1, of #rrggbb, rgb() or rgba()."""
    if colour.startswith("#"):
        return [*(float(int(colour[i : i + 2], 16)) for i in (1, 3, 5)), 1.0]
    found = COLOUR.fullmatch(colour)
    numbers = [float(number) for number in found[1].split(",")] if found else []
    return [*numbers, 1.0][:4] if len(numbers) >= 3 else [0.0, 0.0, 0.0, 1.0]


def _alpha(colour: str) -> float:
    return _channels(colour)[3]


def _with_alpha(colour: str, alpha: float) -> str:
    red, green, blue, _ = _channels(colour)
    return f"rgba({red:g},{green:g},{blue:g},{alpha})"


def _on_white(colour: str, opacity: float = 1.0) -> str:
    """#rrggbb of what a translucent colour looks like on white."""
    *rgb, alpha = _channels(colour)
    mixed = (round(255 + (part - 255) * alpha * opacity) for part in rgb)
    return "#" + "".join(f"{part:02x}" for part in mixed)
