"""The explorer without widgets: the same figures, in a page that needs no kernel."""

import os
from pathlib import Path

from lens_audio.analysis.attention import top_heads
from lens_audio.explorer.session import ROLES, Session
from lens_audio.explorer.state import EdgesState, State
from lens_audio.plots.choices import answer_probabilities
from lens_audio.plots.heads import head_map
from lens_audio.plots.pages.circuit_graph import ShownGraph, graph_section
from lens_audio.plots.pages.explorer import explorer_page
from lens_audio.plots.patching import patching_heatmap
from lens_audio.plots.report import code, escape, note, write_page
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.tokens import token_attention
from lens_audio.sites import Head, head_name

N_HEADS = 8
HEIGHT = 1500  # pixels, of the frame in a notebook


def edges_sections(session: Session, edges: EdgesState, clip: int, head: Head) -> list[str]:
    """The edges that are shown, if any were found, as a part of a page; the head's attention first."""
    found = edges.found
    if found is None:
        return []
    logits, effects = session.direct_effects(found.metric)
    known = sorted(found.faithfulness.items())
    shown = ShownGraph(
        graph=found.graph.greedy(edges.n_edges),
        metric=found.graph.about["metric"],
        effects=effects,
        logits=logits,
        prompt=session.clean,
        clip=clip,
        faithfulness=[(n, f"{value:.2f}") for n, value in known if n <= edges.n_edges],
        chosen=head_name(*head),
    )
    return [graph_section(shown, "Edges")]


class StaticExplorer:
    """Figures of one question, or of a saved state; shown by Jupyter, or saved as a page."""

    def __init__(self, session: Session, state: State | None = None) -> None:
        self.session, self.state = session, state

    def html(self) -> str:
        """The self-contained page."""
        session, state = self.session, self.state
        role, clip = ("clean", 0) if state is None else (state.run, state.clip)
        prompt, mass = session.prompt(role), session.mass(role)
        heads = top_heads(mass, min(N_HEADS, mass.numel()))
        if state is not None:
            heads = list(dict.fromkeys([state.selection, *state.working_set.heads, *heads]))
        rows = session.attention[role][tuple(zip(*heads, strict=True))]
        outlined = heads if state is None else state.working_set.heads
        which = "the strongest" if state is None else "the working set"
        answers = answer_probabilities(session.candidates, session.unedited,
                                       quantity=session.quantity)  # fmt: skip
        figures = {
            "Answers": (answers, ""),
            "Which heads read the audio": (
                head_map(mass, outlined=outlined), note(f"Outlined: {which}.")
            ),
            "When the strongest heads listen": (
                attention_over_time(prompt, rows, heads, clip=clip), ""
            ),
            f"Tokens: {head_name(*heads[0])}": (
                token_attention(session.pattern(role, heads[0]), prompt), ""
            ),
        }  # fmt: skip
        if state is not None and state.sweep.result is not None:
            sweep = patching_heatmap(state.sweep.result, recovery=True)
            figures[f"Activation patching: {state.sweep.site}"] = (sweep, "")
        edges = [] if state is None else edges_sections(session, state.edges, clip, heads[0])
        install = code("pip install anywidget ipywidgets")
        return explorer_page(
            {name: session.prompt(name) for name in ROLES}, figures, clip=clip,
            about=(session.model_title,), question=session.question, sections=edges,
            notes="" if state is None else state.notes,
            said=f"Figures only: {install} makes this an explorer to click on.",
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page."""
        return write_page(path, self.html())

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;border:0" sandbox="allow-scripts allow-downloads"'
        return f'<iframe srcdoc="{escape(self.html())}" height="{HEIGHT}" {frame}></iframe>'
