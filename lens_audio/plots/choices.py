"""The answers a model chooses from."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Real

from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import COLOURS, styled, text

Probabilities: TypeAlias = Sequence[float] | Real[Array, " choice"] | pd.Series


def choice_probabilities(
    choices: Sequence[str],
    with_sound: Probabilities,
    without_sound: Probabilities,
    *,
    answer: str | None = None,
    quantity: str = "probability among the choices",
    names: tuple[str, str] = ("with the sound", "sound silenced"),
) -> go.Figure:
    """The probability (0 to 1) of each choice with the sound and with silence in its place.

    Args:
        answer: the right choice, marked with a tick.
        names: of the two runs, where the second is something else than silence.

    Raises:
        ValueError: unless there is one probability for each choice.
    """
    if not len(choices) == len(with_sound) == len(without_sound):
        raise ValueError(
            f"{len(choices)} choices, but {len(with_sound)} probabilities with the sound and "
            f"{len(without_sound)} without"
        )
    runs = dict(zip(names, (with_sound, without_sound), strict=True))
    return answer_probabilities(choices, runs, answer=answer, quantity=quantity)


def answer_probabilities(
    choices: Sequence[str],
    runs: Mapping[str, Probabilities],
    *,
    answer: str | None = None,
    quantity: str = "probability among the choices",
) -> go.Figure:
    """The probability (0 to 1) of each choice in up to six runs, by name.

    Raises:
        ValueError: for no runs or more than six, or one without a probability for each choice.
    """
    if not 1 <= len(runs) <= len(COLOURS):
        raise ValueError(f"{len(runs)} runs; one to {len(COLOURS)} can be told apart")
    for run, probs in runs.items():
        if len(probs) != len(choices):
            raise ValueError(f"{len(choices)} choices, but {len(probs)} probabilities of {run!r}")
    ticks = [("✓ " if choice == answer else "") + text(choice, 28) for choice in choices]
    figure = go.Figure()
    for (run, probs), colour in zip(runs.items(), COLOURS, strict=False):
        name, numbers = text(run), as_array(probs, "choice", dtype=float).tolist()
        figure.add_bar(
            y=list(range(len(choices))),
            x=numbers,
            orientation="h",
            name=name,
            marker_color=colour,
            text=[_percent(p) for p in numbers],
            textposition="outside",
            cliponaxis=False,
            customdata=ticks,
            hovertemplate=f"%{{customdata}}<br>{name}: %{{x:.2%}}<extra></extra>",
        )
    figure.update_xaxes(title_text=text(quantity), range=[0, 1.08], tickformat=".0%", dtick=0.25)
    figure.update_yaxes(
        tickvals=list(range(len(choices))),
        ticktext=ticks,
        autorange="reversed",
        automargin=True,
        ticklabelstandoff=8,  # of bars so short that their number would touch the name
        showgrid=False,
    )
    return styled(
        figure,
        height=110 + (14 + 20 * len(runs)) * len(choices),
        bargap=0.3,
        bargroupgap=0.08,
        barmode="group",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        margin={"l": 20, "r": 40, "t": 40, "b": 50},
    )


def shown_mass(mass: float) -> str:
    """The probability of all choices together: 98.2%, or 7e-39."""
    return f"{mass:.1%}" if mass >= 0.001 else f"{mass:.0e}"


def _percent(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.1 else f"{probability:.1%}"
