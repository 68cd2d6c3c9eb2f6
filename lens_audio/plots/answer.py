"""What is known of each token of an answer."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Real

from lens_audio.plots.arrays import Array, as_array
from lens_audio.plots.theme import BLUE, GRID, INK, clipped, styled, text, ticks

MOST_LABELS = 40
LABEL_LETTERS = 14
TITLE_LETTERS = 18  # in a line: as high as what long labels leave of the figure


def listening_over_tokens(
    mass: Real[Array, "token head"], tokens: Sequence[str], heads: Sequence[str]
) -> go.Figure:
    """The listening score at each token of an answer, and the audio mass of each head behind it.

    Args:
        mass: from 0 to 1, at the position that each token was chosen from.
        tokens: of the answer, as text.
        heads: their names.

    Raises:
        ValueError: for other numbers of tokens or heads than the mass has.
    """
    shares = as_array(mass, "token", "head", dtype=float)
    if shares.shape != (len(tokens), len(heads)) or not shares.size:
        raise ValueError(
            f"a mass of shape {shares.shape} for {len(tokens)} tokens and {len(heads)} heads"
        )
    places, words = list(range(len(tokens))), [repr(token)[1:-1] for token in tokens]
    names = [text(word) for word in words]
    figure = go.Figure()
    for number, head in enumerate(heads):
        figure.add_scatter(
            x=places,
            y=shares[:, number],
            mode="lines",
            line={"color": INK, "width": 1},
            opacity=0.5,
            customdata=names,
            name=text(head),
            showlegend=False,
            hovertemplate=f"{text(head)}, %{{customdata}}<br>audio mass %{{y:.3f}}<extra></extra>",
        )
    figure.add_scatter(
        x=places,
        y=shares.mean(1),
        mode="lines+markers",
        line={"color": BLUE, "width": 2.5},
        marker={"size": 7},
        customdata=names,
        name="listening score",
        showlegend=False,
        hovertemplate="%{customdata}<br>listening score %{y:.3f}<extra></extra>",
    )
    shown = ticks(names, MOST_LABELS)
    figure.update_xaxes(
        title_text="token of the answer",
        tickvals=shown,
        ticktext=[text(clipped(words[place], LABEL_LETTERS)) for place in shown],
        tickangle=90 if len(tokens) > 8 else 0,
        showgrid=False,
        automargin=True,
    )
    title = text("listening score; thin: each head’s audio mass", TITLE_LETTERS)
    figure.update_yaxes(title_text=title, range=[0, 1], gridcolor=GRID)
    return styled(figure, 380, margin={"l": 104, "r": 20, "t": 20, "b": 60})
