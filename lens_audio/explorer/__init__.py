"""`la.explore`: heads, patching and circuits of one question, by clicking, in Jupyter."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from lens_audio.analysis.patching.alignment import as_pair
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.explorer.session import Session
from lens_audio.explorer.state import read_state, saved_choices
from lens_audio.explorer.static import StaticExplorer
from lens_audio.inputs import AudioPrompt


def has_widgets() -> bool:
    """Whether the packages that draw the widgets are installed."""
    return all(find_spec(name) is not None for name in ("anywidget", "ipywidgets"))


if has_widgets():
    from lens_audio.explorer.explorer import Explorer


def explore(
    model: HookedAudioTransformer,
    prompt: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    *,
    choices: Sequence[str] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Any:
    """Explore how a model answers a question about a recording; for a cell of a Jupyter notebook.

    Click a cell of the head map to see that head's attention over time and over tokens; run
    patching sweeps; find the edges that carry the answer; collect heads into a circuit, knock it out
    or keep only it, and take it away as code or JSON. The sound's playhead runs over the figures.

    Args:
        prompt: the clean one, one row; or a pair (`lens_audio.data.pair`), when recordings or
            questions are of unequal length.
        corrupted: the same question over another recording of the same length; by default over
            silence.
        choices: two or more answers to compare (metrics compare their first tokens); by default
            the likeliest next tokens.
        state: a file of `Explorer.save("….json")`, of the same model, question and recordings, to go
            on where it was saved: with its choices, where none are given.

    Returns:
        An `Explorer` widget (`.circuit`, `.result`, `.select(layer, head)`, … work from code too),
        or a `StaticExplorer` of figures where ipywidgets or anywidget are not installed.

    Raises:
        ValueError: for fewer than two choices, a prompt of several rows, without audio or without a
            tokenizer, prompts of unequal shape, or hooks left on the model;
            for a state, the field that does not fit.
    """
    if corrupted is None and isinstance(prompt, AudioPrompt):
        corrupted = prompt.silenced()
    if state is not None and choices is None:
        choices = saved_choices(state)
    session = Session(model, as_pair(prompt, corrupted), choices)
    saved = None if state is None else read_state(state, session)
    return Explorer(session, saved) if has_widgets() else StaticExplorer(session, saved)


__all__ = ["explore"]
