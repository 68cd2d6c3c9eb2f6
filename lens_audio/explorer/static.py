"""The explorer without widgets: the same figures, in a page that needs no kernel."""

import os
from pathlib import Path

from lens_audio.analysis.attention import top_heads
from lens_audio.explorer.session import Session
from lens_audio.plots.choices import answer_probabilities
from lens_audio.plots.heads import head_map
from lens_audio.plots.report import audio_html, escape, figure_html, page, write_page
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.theme import head_name
from lens_audio.plots.tokens import token_attention

N_HEADS = 8
HEIGHT = 1500  # pixels, of the frame in a notebook


class StaticExplorer:
    """Figures of one question; shown by Jupyter, or saved as a page."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def html(self) -> str:
        """The self-contained page."""
        session = self.session
        mass = session.mass("clean")
        heads = top_heads(mass, min(N_HEADS, mass.numel()))
        rows = session.attention["clean"][tuple(zip(*heads, strict=True))]
        answers = answer_probabilities(session.candidates, session.unedited,
                                       quantity=session.quantity)  # fmt: skip
        figures = {
            "Answers": figure_html(answers, "answers"),
            "Which heads read the audio": figure_html(
                head_map(mass, "share of attention on the audio", outlined=heads), "heads"
            ),
            "When the strongest heads listen": self._player() + figure_html(
                attention_over_time(session.clean, rows, heads), "time", over_time=True
            ),
            f"Tokens: {head_name(*heads[0])}": figure_html(
                token_attention(session.pattern("clean", heads[0]), session.clean), "tokens"
            ),
        }  # fmt: skip
        sections = [f"<section><h2>{escape(t)}</h2>{f}</section>" for t, f in figures.items()]
        note = (
            '<p class="note">Figures only: <code>pip install anywidget ipywidgets</code> makes '
            "this an explorer to click on.</p>"
        )
        return page("lens_audio explorer", note + "\n".join(sections))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page."""
        return write_page(path, self.html())

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;border:0" sandbox="allow-scripts allow-downloads"'
        return f'<iframe srcdoc="{escape(self.html())}" height="{HEIGHT}" {frame}></iframe>'

    def _player(self) -> str:
        waveforms = self.session.clean.waveforms
        return "" if not waveforms else audio_html(waveforms[0], self.session.clean.sampling_rate)
