"""The page of `la.explore`: what it shows, without Python."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from lens_audio.inputs import AudioPrompt
from lens_audio.plots.report import (
    audio_html,
    columns,
    escape,
    figure_html,
    label,
    note,
    own_versions,
    report,
    section,
)

STRIP_STYLE = "<style>.strip { width: 100%; height: 36px; display: block; }</style>"
NOTES_STYLE = "white-space: pre-wrap"


def explorer_page(
    prompts: Mapping[str, AudioPrompt],
    figures: Mapping[str, tuple[go.Figure, str]],
    *,
    sections: Sequence[str] = (),
    about: Sequence[str],
    question: str,
    clip: int = 0,
    notes: str = "",
    circuit: str = "",
    said: str = "",
) -> str:
    """The page: notes and recordings, then each figure in a part of its own.

    Args:
        prompts: the clean and the corrupted one, by name.
        figures: by title, with what stands below each as HTML.
        sections: parts below the figures, each by `report.section`.
        about: the model, and what else stands below the title, as plain text.
        question: the text of the prompt.
        clip: which clip of the prompts is heard.
        notes: the user's own, as plain text.
        circuit: Python that makes the working set and tests it.
        said: a remark on the page, as HTML.
    """
    first = [note(said)] if said else []
    first += [label("Prompt"), f'<p style="{NOTES_STYLE}">{escape(question.strip())}</p>']
    if notes.strip():
        first += [label("Notes"), f'<p style="{NOTES_STYLE}">{escape(notes)}</p>']
    players = [
        label(name) + audio_html(prompt.waveforms[prompt.clips_of(0)[clip]], prompt.sampling_rate)
        for name, prompt in prompts.items()
        if prompt.waveforms is not None
    ]
    first.append(
        columns(players[0], players[1], even=True) if len(players) == 2 else "".join(players)
    )
    parts = [section(None, STRIP_STYLE, *first)]
    for number, (title, (figure, below)) in enumerate(figures.items()):
        over_time = figure.layout.xaxis.title.text == "time (s)"
        drawn = figure_html(figure, f"figure-{number}", over_time=over_time)
        parts.append(section(title, drawn, below))
    parts += sections
    if circuit:
        parts.append(section("The working set in Python", f"<pre>{escape(circuit)}</pre>"))
    return report("lens_audio explorer", about, parts, (escape(own_versions()),))
