"""What each patch of a sweep did: maps, bars and a slider over positions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.plots.theme import BLUE, GRID, INK, ORANGE, SIGNED, clipped, styled, text, ticks
from lens_audio.plots.zoom import Scale, add_zoom_button, are_wide, cell_numbers, maps_of

WINDOW = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?) s")  # "0.50-0.75 s"
MOMENT = re.compile(r"(\d+(?:\.\d+)?) s")  # "0.52 s"
MOST_LETTERS = 72  # of the groups that are named above a figure
MOST_COLUMNS = 24  # with more, values are not written into the cells
UNDEFINED = "#9a9a9a"
PARTS = ("head", "neuron", "neuron group")  # of an activation
SLIDER_HEIGHT = 110  # pixels


def patching_heatmap(
    result: PatchingResult,
    metric: str | None = None,
    *,
    recovery: bool = False,
    labels: Sequence[str] | None = None,
    missing: str = "undefined",
    beside: Sequence[PatchingResult] = (),
    zoom: bool = False,
) -> go.Figure:
    """What each patch did to one metric, averaged over the examples.

    Layer x head, layer x position, …; times are an axis in seconds. Three swept axes get a slider
    over positions, a single one gets bars; axes with one entry are only named in the hover text.

    The colours of recovery end at -1 and 1, or at the largest recovery where that is more. Where all
    are below a half, a button stretches the colours over them, and the colour bar says how far.

    Args:
        metric: one of `result.metrics`; the first by default.
        recovery: 0 where a patch did nothing, 1 where it did as much as the whole source run;
            by default the change from the base run, in the metric's own units.
        labels: names of the positions, such as `prompt.str_tokens(0)`.
        missing: what cells without a number are: by default the metric has no value there.
        beside: results whose figures stand beside this one: all have one scale of colours then.
        zoom: begin with the colours stretched, where there is a button for it.

    Raises:
        ValueError: for no such metric, or another number of labels than positions.
    """
    sweep = _Sweep.of(result, metric, recovery, labels, missing)
    if len(sweep.axes) == 1:
        return _bars(sweep)
    scale = Scale.of([result, *beside], metric, recovery)
    limit = scale.largest if zoom and scale.can_zoom else scale.full
    figure = _map(sweep, limit) if len(sweep.axes) == 2 else _slider(sweep, limit)
    for trace in maps_of(figure):
        trace.colorbar = scale.bar(sweep.quantity, limit)
    if scale.can_zoom:
        add_zoom_button(figure, sweep.quantity, scale, zoom)
    return figure


@dataclass(frozen=True)
class _Axis:
    name: str  # "layer", "position", "group" or "head"
    labels: list[str]

    @cached_property
    def edges(self) -> list[float] | None:
        """Where the entries begin and the last one ends, in seconds, if they follow in time."""
        windows = [WINDOW.fullmatch(label) for label in self.labels]
        if all(windows):
            starts = [float(w[1]) for w in windows if w]
            ends = [float(w[2]) for w in windows if w]
            return [*starts, ends[-1]] if starts[1:] == ends[:-1] else None
        moments = [MOMENT.fullmatch(label) for label in self.labels]
        if len(moments) > 1 and all(moments):
            times = [float(m[1]) for m in moments if m]
            return [*times, 2 * times[-1] - times[-2]] if sorted(set(times)) == times else None
        return None

    @property
    def title(self) -> str:
        if self.edges is not None:
            return "time (s)"
        return {"group": "positions", "position": "position"}.get(self.name, self.name)

    @property
    def layout(self) -> dict[str, Any]:
        """Of a plotly axis."""
        if self.edges is not None:
            return {"title_text": self.title, "range": [self.edges[0], self.edges[-1]]}
        places = ticks(self.labels)
        return {
            "title_text": self.title,
            "tickvals": places,
            "ticktext": [text(clipped(self.labels[i])) for i in places],
            "range": [-0.5, len(self.labels) - 0.5],
            "tickfont": {"size": 11 if len(self.labels) > 16 else 13},
            "tickangle": 90 if max(map(len, self.labels)) > 3 and len(self.labels) > 16 else None,
            "title_standoff": 10,
            "automargin": True,
        }

    def where(self, i: int) -> str:
        label = text(self.labels[i])
        return label if self.edges is not None else f"{self.name} {label}".removeprefix("group ")


@dataclass(frozen=True)
class _Sweep:
    """One metric of a result: the axes that vary, and the numbers of every cell."""

    axes: list[_Axis]
    fixed: list[_Axis]  # those with one entry
    shown: Float[np.ndarray, "..."]
    patched: Float[np.ndarray, "..."]
    recovered: Float[np.ndarray, "..."]
    base: float
    source: float
    runs: tuple[str, str]  # which run is the base, which the source
    metric: str
    recovery: bool
    missing: str  # what cells without a number are
    averaged: list[str]  # groups of which a mean was patched

    @classmethod
    def of(
        cls,
        result: PatchingResult,
        metric: str | None,
        recovery: bool,
        labels: Sequence[str] | None,
        missing: str,
    ) -> "_Sweep":
        patched = result.mean(metric).double().numpy()
        recovered = result.recovery(metric).double().numpy()
        metric = result.metrics[0] if metric is None else metric
        number = result.metrics.index(metric)
        base, source = (float(v[number].mean()) for v in (result.base, result.source))
        names = {name: list(result.axes[name]) for name in result.axes}
        every = [_Axis(name, names[name]) for name in names if name not in ("metric", "example")]
        if labels is not None:
            every = [_labelled(axis, labels) for axis in every]
        axes = [axis for axis in every if len(axis.labels) > 1] or every[-1:]
        shape = [len(axis.labels) for axis in axes]
        runs = {"denoise": ("corrupted", "clean"), "noise": ("clean", "corrupted")}
        return cls(
            axes=axes,
            fixed=[axis for axis in every if axis not in axes],
            shown=(recovered if recovery else patched - base).reshape(shape),
            patched=patched.reshape(shape),
            recovered=recovered.reshape(shape),
            base=base,
            source=source,
            runs=runs.get(str(result.about.get("direction")), ("", "")),
            metric=metric,
            recovery=recovery,
            missing=missing,
            averaged=list(result.about.get("averaged", [])),
        )

    @property
    def quantity(self) -> str:
        return f"{'recovery' if self.recovery else 'change'} of {self.metric}"

    @property
    def hover(self) -> str:
        """After the name of the cell."""
        base, source = (f" ({run} run)" if run else "" for run in self.runs)
        name = text(self.metric)
        return (
            f"<br>{name}: %{{customdata[0]:.4g}}"
            f"<br>base{base}: {self.base:.4g}<br>source{source}: {self.source:.4g}"
            f"<br>change from base: %{{customdata[1]:.4g}}"
            + ("<br>recovery: undefined (base = source)" if self.source == self.base else
               "<br>recovery: %{customdata[2]:.3f}")
            + "<extra></extra>"
        )  # fmt: skip

    @property
    def numbers(self) -> Float[np.ndarray, "*cells 3"]:
        """Patched value, change from the base run, recovery."""
        stacked = np.stack([self.patched, self.patched - self.base, self.recovered], axis=-1)
        return stacked.astype(np.float32)

    def where(self, places: Sequence[tuple[_Axis, int]]) -> str:
        """Layer, position and head of a cell, those that do not vary included."""
        parts = {axis.name: axis.where(i) for axis, i in places}
        parts |= {axis.name: axis.where(0) for axis in self.fixed}
        order = ("sender", "source layer", "target layer", "layer", "position", "group", *PARTS)
        return ", ".join(parts[name] for name in order if name in parts)


def _labelled(axis: _Axis, labels: Sequence[str]) -> _Axis:
    if axis.name not in ("position", "group"):
        return axis
    if len(labels) != len(axis.labels):
        raise ValueError(f"{len(labels)} labels for {len(axis.labels)} positions")
    return _Axis(axis.name, list(labels))


def _map(sweep: _Sweep, limit: float) -> go.Figure:
    """Two axes; positions run along x."""
    y, x = sweep.axes
    shown, numbers = sweep.shown, sweep.numbers
    if x.name in PARTS and y.name in ("position", "group"):
        y, x, shown, numbers = x, y, shown.T, numbers.swapaxes(0, 1)
    figure = go.Figure(_cells(sweep, limit, y, x, shown, numbers, []))
    return _arranged(figure, sweep, y, x)


def _slider(sweep: _Sweep, limit: float) -> go.Figure:
    """Layer x head for one position at a time; it opens at the strongest."""
    y, steps, x = sweep.axes
    figure = go.Figure()
    owner = []  # the position that each trace belongs to
    for i in range(len(steps.labels)):
        shown, numbers = sweep.shown[:, i], sweep.numbers[:, i]
        traces = _cells(sweep, limit, y, x, shown, numbers, [(steps, i)])
        figure.add_traces(traces)
        owner += [i] * len(traces)
    size = np.nan_to_num(np.abs(sweep.shown), nan=0.0).max(axis=(0, 2))
    first = int(size.argmax())
    for trace, i in zip(figure.data, owner, strict=True):
        trace.visible = i == first
    slider = {
        "active": first,
        "currentvalue": {"prefix": "" if steps.edges else f"{steps.title}: "},
        "pad": {"t": 48, "b": 8},
        "steps": [
            {
                "method": "restyle",
                "label": text(label),
                "args": [{"visible": [i == place for i in owner]}],
            }
            for place, label in enumerate(steps.labels)
        ],
    }
    _arranged(figure, sweep, y, x)
    return figure.update_layout(sliders=[slider], height=figure.layout.height + SLIDER_HEIGHT)


def _cells(
    sweep: _Sweep,
    limit: float,
    y: _Axis,
    x: _Axis,
    shown: Float[np.ndarray, "y x"],
    numbers: Float[np.ndarray, "y x 3"],
    places: list[tuple[_Axis, int]],
) -> list[go.Heatmap]:
    """The map itself and, where values are undefined, grey cells that say so."""
    names = [
        [sweep.where([*places, (y, i), (x, j)]) for j in range(len(x.labels))]
        for i in range(len(y.labels))
    ]
    written = len(x.labels) <= MOST_COLUMNS and len(y.labels) <= 2 * MOST_COLUMNS
    where: dict[str, Any] = {
        "x": x.edges or list(range(len(x.labels))),
        "y": y.edges or list(range(len(y.labels))),
        "xgap": int(len(x.labels) <= 64),  # narrower cells would be nothing but gap
        "ygap": 1,
        "hovertext": names,
        "texttemplate": "%{text}" if written else None,
    }
    values = go.Heatmap(
        z=shown.astype(np.float32),
        zmin=-limit,
        zmax=limit,
        colorscale=SIGNED,
        customdata=numbers,
        text=cell_numbers(shown, limit, where["x"]) if written else None,
        hovertemplate="%{hovertext}" + sweep.hover,
        hoverongaps=False,
        **where,
    )
    undefined = np.isnan(shown)
    if not undefined.any():
        return [values]
    has_room = np.array(are_wide(where["x"], len(x.labels)))
    grey = go.Heatmap(
        z=np.where(undefined, 0.0, np.nan),
        colorscale=[[0, UNDEFINED], [1, UNDEFINED]],
        showscale=False,
        text=np.where(undefined & has_room, "n/a", "").tolist() if written else None,
        hovertemplate=f"%{{hovertext}}<br>{text(sweep.missing)}<extra></extra>",
        hoverongaps=False,
        **where,
    )
    return [values, grey]


def _arranged(figure: go.Figure, sweep: _Sweep, y: _Axis, x: _Axis) -> go.Figure:
    height = min(760, max(270, 130 + 34 * len(y.labels)))
    if x.layout.get("tickangle"):  # the labels need room below
        height += 60
    styled(figure, height=height, margin={"l": 70, "r": 20, "t": 28, "b": 56})
    figure.update_xaxes(showgrid=False, linecolor=INK, **x.layout)
    figure.update_yaxes(showgrid=False, linecolor=INK, **y.layout)
    _note(figure, sweep, "grey cells")
    return figure


def _bars(sweep: _Sweep) -> go.Figure:
    """A single axis."""
    (x,) = sweep.axes
    places = list(range(len(x.labels)))
    positions, widths = places, None
    if x.edges is not None:
        positions = list(np.add(x.edges[:-1], x.edges[1:]) / 2)
        widths = np.diff(x.edges) * 0.94
    bar = go.Bar(
        x=positions,
        y=sweep.shown,
        width=widths,
        marker_color=[BLUE if value < 0 else ORANGE for value in sweep.shown],
        hovertext=[sweep.where([(x, i)]) for i in places],
        customdata=sweep.numbers,
        hovertemplate="%{hovertext}" + sweep.hover,
    )
    figure = go.Figure(bar)
    styled(figure, height=330, bargap=0.2, margin={"l": 70, "r": 20, "t": 28, "b": 56})
    figure.update_xaxes(showgrid=False, **x.layout)
    top, bottom = (np.nanmax([0, *sweep.shown]), np.nanmin([0, *sweep.shown]))
    top = max(top, 1.0) if sweep.recovery else top
    room = 0.08 * ((top - bottom) or 1.0)
    figure.update_yaxes(
        title_text=text(sweep.quantity),
        gridcolor=GRID,
        zeroline=True,
        zerolinecolor=INK,
        range=[bottom - room if bottom < 0 else 0, top + room],
    )
    if sweep.recovery:
        figure.add_hline(
            y=1, line={"color": INK, "dash": "dash", "width": 1}, annotation_text="1: all of it",
            annotation_position="top right",
        )  # fmt: skip
    for i in np.flatnonzero(np.isnan(sweep.shown)):
        figure.add_annotation(
            x=positions[i], y=0, text="n/a", showarrow=False, yshift=8, font={"size": 11}
        )
    _note(figure, sweep, "n/a")
    return figure


def _note(figure: go.Figure, sweep: _Sweep, undefined: str) -> None:
    """A line above the figure, on the left: what cells without a number and means of groups are."""
    words = []
    if np.isnan(sweep.shown).any():
        words.append(f"{undefined}: {text(sweep.missing)}")
    if sweep.averaged:
        names = text(clipped(", ".join(sweep.averaged), MOST_LETTERS))
        words.append(f"mean of a group of unequal length: {names}")
    if not words:
        return
    figure.add_annotation(
        text=" · ".join(words), xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom",
        showarrow=False,
    )  # fmt: skip
