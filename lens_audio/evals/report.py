"""The files of a benchmark's results: answers, predictions, tables, the report."""

import json
import os
from pathlib import Path
from typing import Any

from lens_audio.evals.results import Answers
from lens_audio.evals.runner import Records
from lens_audio.files import write_text
from lens_audio.plots.pages.benchmark import benchmark_page
from lens_audio.plots.report import write_page
from lens_audio.tables import write_table


class Results(Answers):
    """Every answer of every run, what follows from them, and its files.

    An item that could not be asked counts as answered wrong in every run, as the benchmark's own
    script counts a prediction that is empty.
    """

    def write(self, folder: str | os.PathLike[str], command: str = "", model: str = "") -> Path:
        """All files of the results; what is returned is the report.

        Args:
            command: what made them, for the report.
            model: what the report calls it; by default the name of its folder or on the hub.
        """
        place = Path(folder)
        write_text(place / "answers.jsonl", "".join(_line(r) for r in self._with_answers()))
        write_text(place / "results.json", json.dumps(self.to_dict(), indent=1) + "\n")
        for run in self.runs:
            predictions = json.dumps(self.predictions(run), indent=1)
            write_text(place / f"predictions-{run.replace(' ', '-')}.json", predictions + "\n")
        tables = {"accuracy": self.accuracy, "comparison": self.comparison}
        if "runs" in self.manifest:
            tables |= {"controls": self.against_controls, "metrics": self.metrics}
        for name, table in tables.items():
            if table is not None:
                write_table(table, place / f"{name}.csv")
        if self.chosen is not None and self.chosen.table is not None:
            self.chosen.steering.save(place / "steering.safetensors")
        return write_page(place / "report.html", benchmark_page(self, command, model))

    def _with_answers(self) -> Records:
        """The records with what was asked and what is right."""
        return [
            {"id": item.id, "question": item.question, "choices": list(item.choices),
             "answer": item.answer, **item.facts, **record}
            for item, record in zip(self.items, self.records, strict=True)
        ]  # fmt: skip


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
