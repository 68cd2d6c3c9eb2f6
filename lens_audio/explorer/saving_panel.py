"""Notes, and the buttons that keep what the explorer shows."""

import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from lens_audio.explorer.parts import Status, heading


class SavingPanel(widgets.VBox):
    """Notes of the user's own, and a file of the state or a page of the figures."""

    def __init__(self, save: Callable[[str | os.PathLike[str]], Path]) -> None:
        self.status = Status()
        self.notes = widgets.Textarea(
            placeholder="Notes: kept in both files", layout={"width": "auto", "height": "72px"}
        )
        self.name = widgets.Text(
            "explorer", description="file", style={"description_width": "initial"}
        )
        buttons = []
        for suffix, what in ((".json", "Save state (JSON)"), (".html", "Save page (HTML)")):
            button = widgets.Button(description=what, icon="save", layout={"width": "auto"})
            button.on_click(self.status.reporting(lambda _, suffix=suffix: self._save(suffix)))
            buttons.append(button)
        self._write = save
        note = "The state opens again with la.explore(model, prompt, state=…); the page needs no Python."
        row = widgets.HBox([self.name, *buttons], layout={"flex_flow": "wrap"})
        super().__init__([heading("Notes and files", note), self.notes, row, self.status])

    def _save(self, suffix: str) -> None:
        name = self.name.value.strip().removesuffix(".json").removesuffix(".html")
        if not name:
            raise ValueError("give the file a name")
        self.status.say(f"Saved: {self._write(name + suffix)}")
