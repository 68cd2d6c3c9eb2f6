"""What a run found, and its files: answers, predictions, tables, the report."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.data.items import AudioQAItem
from lens_audio.evals.items import AudioQADataset
from lens_audio.evals.metrics import Row, metrics_of, rule_of, unit_of
from lens_audio.evals.protocol import Chosen
from lens_audio.evals.runner import Records
from lens_audio.evals.runs import BASE
from lens_audio.evals.scores import accuracies, against_controls, comparisons
from lens_audio.files import write_text
from lens_audio.plots.pages.benchmark import benchmark_page
from lens_audio.plots.report import write_page
from lens_audio.stats import Interval, auroc
from lens_audio.tables import write_table


@dataclass(frozen=True, eq=False)
class Results:
    """Every answer of every run, what follows from them, and its files.

    An item that could not be asked counts as answered wrong in every run, as the benchmark's own
    script counts a prediction that is empty.
    """

    dataset: AudioQADataset
    items: Sequence[AudioQAItem]
    records: Records  # one an item, in order
    manifest: dict[str, Any]
    chosen: Chosen | None = None
    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)  # random ones, by run

    def __repr__(self) -> str:
        name = f"{type(self).__name__}({self.dataset.name} {self.dataset.version}, {len(self.items)} items"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        if self.correct is None:
            return f"{name}{failed}; answers withheld; runs: {', '.join(self.runs)})"
        shares = ", ".join(f"{r} {float(c.double().mean()):.3f}" for r, c in self.correct.items())
        return f"{name}{failed}; accuracy: {shares})"

    def _repr_html_(self) -> str:
        table = self.comparison
        below = "" if table is None else table.to_html(index=False, float_format="%.3f")
        return f"<p>{escape(repr(self))}</p>{below}"

    @property
    def failed(self) -> dict[str, str]:
        """Why items could not be asked, by id."""
        return {r["id"]: r["failed"] for r in self.records if "failed" in r}

    @property
    def rule(self) -> str:
        """Whose scoring rule the benchmark follows; "" where it does not say."""
        return rule_of(self.dataset)

    @cached_property
    def runs(self) -> list[str]:
        """The runs, the base first."""
        return next((list(r["runs"]) for r in self.records if "failed" not in r), [BASE])

    @cached_property
    def correct(self) -> dict[str, Bool[Tensor, " item"]] | None:
        """Which items each run answers right; None where the answers are withheld."""
        if any(item.answer is None for item in self.items):
            return None
        return {
            run: torch.tensor(
                ["failed" not in r and r["runs"][run]["correct"] for r in self.records]
            )
            for run in self.runs
        }

    @cached_property
    def accuracy(self) -> pd.DataFrame | None:
        """Accuracy of each run in total and by each fact; see `scores.accuracies`."""
        facts = [item.facts for item in self.items]
        return (
            None if self.correct is None else accuracies(self.correct, facts, self.dataset.groups)
        )

    @cached_property
    def comparison(self) -> pd.DataFrame | None:
        """Each run against the base; see `scores.comparisons`."""
        if self.correct is None:
            return None
        return comparisons(self.correct, self._seed, corrected="runs" in self.manifest)

    @cached_property
    def against_controls(self) -> pd.DataFrame | None:
        """Each run that has random controls against them; see `scores.against_controls`."""
        if self.correct is None or not self.controls:
            return None
        return against_controls(self.correct, self.controls, self._seed)

    @cached_property
    def metrics(self) -> pd.DataFrame | None:
        """What the benchmark reports of each run, and its change from the base, paired.

        Returns:
            Columns run, metric, value, low, high (95 % bootstrap over the benchmark's units), change,
            change_low, change_high (NaN for the base), undefined; None where answers are withheld.
        """
        if self.correct is None:
            return None
        units = [unit_of(self.dataset, item) for item in self.items]
        of_runs = {run: metrics_of(self.dataset, self.rows(run)) for run in self.runs}
        rows: list[Any] = []
        for run, found in of_runs.items():
            for name, ratio in found.items():
                value = ratio.interval(units, self._seed)
                change = (math.nan,) * 3
                if run != BASE:
                    change = ratio.change_from(of_runs[BASE][name], units, self._seed)[:3]
                rows.append((run, name, *value[:3], *change, value.undefined or ""))
        columns = ["run", "metric", "value", "low", "high", "change", "change_low", "change_high"]
        return pd.DataFrame(rows, columns=[*columns, "undefined"])

    def rows(self, run: str) -> list[Row]:
        """Each item with what this run predicts."""
        if self.correct is None:
            raise ValueError("the answers of these items are withheld")
        predictions = ("" if "failed" in r else r["runs"][run]["prediction"] for r in self.records)
        right = self.correct[run].tolist()
        return [Row(*row) for row in zip(self.items, predictions, right, strict=True)]

    @property
    def _seed(self) -> int:
        return self.manifest["settings"]["seed"]

    @cached_property
    def scores(self) -> dict[str, float]:
        """The listening score by id, where there are specialists."""
        return {r["id"]: r["listening_score"] for r in self.records if "listening_score" in r}

    @cached_property
    def auroc(self) -> Interval | None:
        """Of the listening score for a right answer of the base run."""
        if not self.scores or self.correct is None:
            return None
        right = {r["id"]: bool(c) for r, c in zip(self.records, self.correct[BASE], strict=True)}
        labels = torch.tensor([right[name] for name in self.scores])
        return auroc(torch.tensor(list(self.scores.values())), labels)

    def predictions(self, run: str) -> list[dict[str, Any]]:
        """The benchmark's own format: its rows, each with the prediction ("" where it failed)."""
        return [
            self.dataset.official_row(
                item, "" if "failed" in record else record["runs"][run]["prediction"]
            )
            for item, record in zip(self.items, self.records, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """All but the single answers, as JSON holds it; NaN is null."""
        chosen, found = self.chosen, self.auroc
        return {
            **self.manifest,
            "n_test": len(self.items),
            "failed": self.failed,
            "heads": None if chosen is None else chosen.steering.heads,
            "beta": None if chosen is None else chosen.steering.beta,
            "calibration": None if chosen is None else _rows(chosen.table),
            "auroc": None if found is None else found.to_dict(),
            "accuracy": _rows(self.accuracy),
            "comparison": _rows(self.comparison),
            **self._of_runs,
        }

    @property
    def _of_runs(self) -> dict[str, Any]:
        """What evaluations of runs have and the paper's protocol has not."""
        if "runs" not in self.manifest:
            return {}
        return {
            "rule": self.rule,
            "controls": _rows(self.against_controls),
            "metrics": _rows(self.metrics),
        }

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


def _rows(table: pd.DataFrame | None) -> Any:
    return None if table is None else json.loads(table.to_json(orient="records"))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
