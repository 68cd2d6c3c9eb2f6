"""The page of `la.explore`, where there are no widgets."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis import audio_mass
from lens_audio.inputs import AudioPrompt
from lens_audio.plots.heads import head_map
from lens_audio.plots.report import code, figure_html, note, page, player, section
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.theme import head_name
from lens_audio.plots.tokens import token_attention


def explorer_page(
    prompt: AudioPrompt,
    answers: go.Figure,
    attention: Float[Tensor, "layer head audio_token"],
    heads: Sequence[tuple[int, int]],
    pattern: Float[Tensor, "query key"],
) -> str:
    """The page: the answers, the map of all heads, the strongest over time, the first over tokens.

    Args:
        heads: the strongest, strongest first.
        pattern: of the first of them.
    """
    install = code("pip install anywidget ipywidgets")
    rows = attention[tuple(zip(*heads, strict=True))]
    figures = {
        "Answers": figure_html(answers, "answers"),
        "Which heads read the audio": figure_html(
            head_map(audio_mass(attention), outlined=heads), "heads"
        ),
        "When the strongest heads listen": player(prompt)
        + figure_html(attention_over_time(prompt, rows, heads), "time", over_time=True),
        f"Tokens: {head_name(*heads[0])}": figure_html(token_attention(pattern, prompt), "tokens"),
    }
    sections = [section(title, figure) for title, figure in figures.items()]
    said = note(f"Figures only: {install} makes this an explorer to click on.")
    return page("lens_audio explorer", said + "\n".join(sections))
