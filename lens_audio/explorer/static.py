"""The explorer without widgets: the same figures, in a page that needs no kernel."""

import os
from pathlib import Path

from lens_audio.analysis.attention import top_heads
from lens_audio.explorer.session import Session
from lens_audio.plots.choices import answer_probabilities
from lens_audio.plots.pages.explorer import explorer_page
from lens_audio.plots.report import escape, write_page

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
        answers = answer_probabilities(session.candidates, session.unedited,
                                       quantity=session.quantity)  # fmt: skip
        pattern = session.pattern("clean", heads[0])
        return explorer_page(session.clean, answers, session.attention["clean"], heads, pattern)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page."""
        return write_page(path, self.html())

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;border:0" sandbox="allow-scripts allow-downloads"'
        return f'<iframe srcdoc="{escape(self.html())}" height="{HEIGHT}" {frame}></iframe>'
