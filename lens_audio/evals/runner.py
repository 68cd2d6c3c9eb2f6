"""Batches done one after another: shared among processes, recorded, resumed, halved if too large."""

import base64
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lens_audio.analysis.patching.fast import is_out_of_memory
from lens_audio.data.batches import BatchDataset, LoadedBatch, load, plan, rows
from lens_audio.data.items import AudioQAItem
from lens_audio.evals.journal import Journal
from lens_audio.evals.processes import Processes
from lens_audio.inputs import AudioPrompt
from lens_audio.progress_bar import ProgressBar

Records = list[dict[str, Any]]


@dataclass
class BatchRecords:
    """What a batch gave: a record for each item, and sums over its items."""

    items: Records
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def __add__(self, other: "BatchRecords") -> "BatchRecords":
        sums = dict(self.sums)
        for name, value in other.sums.items():
            sums[name] = sums[name] + value if name in sums else value
        return BatchRecords(self.items + other.items, sums)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it; sums as base64 of float32."""
        sums = {
            name: base64.b64encode(np.asarray(value, dtype="<f4").tobytes()).decode()
            for name, value in sorted(self.sums.items())
        }
        return {"items": self.items, "sums": sums}

    @classmethod
    def of_json(cls, facts: dict[str, Any]) -> "BatchRecords":
        """What `to_json` gave.

        Raises:
            ValueError: for anything else.
        """
        items, sums = facts.get("items"), facts.get("sums")
        named = isinstance(items, list) and all(
            isinstance(item, dict) and isinstance(item.get("id"), str) for item in items
        )
        if not named or not isinstance(sums, dict) or set(facts) != {"items", "sums"}:
            raise ValueError("a batch's records have items with their ids, and sums")
        try:
            arrays = {
                name: np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
                for name, text in sums.items()
            }
        except (TypeError, ValueError) as error:
            raise ValueError(f"sums are base64 of float32: {error}") from error
        return cls(facts["items"], arrays)


Work = Callable[[AudioPrompt, list[AudioQAItem]], BatchRecords]


@dataclass
class Spent:
    """Seconds of this process's loops, and how many of them were spent waiting for data."""

    total: float = 0.0
    waiting: float = 0.0


class Runner:
    """Runs work over items, batch by batch.

    A batch is done or not done as a whole, and which items it holds depends on the items alone: so a
    run that was killed and resumed, or shared among processes, computes the same.
    """

    def __init__(
        self,
        journal: Journal | None,  # of the main process; None in the others
        processes: Processes,
        to_load: Callable[[Sequence[Sequence[AudioQAItem]]], BatchDataset],
        batch_size: int,
        workers: int = 0,
        verbose: bool = True,
    ) -> None:
        self.journal, self.processes, self.to_load = journal, processes, to_load
        self.batch_size, self.workers, self.verbose = batch_size, workers, verbose
        self.spent = Spent()
        done = processes.gather({} if journal is None else journal.done)
        self.done: dict[tuple[str, int], dict[str, Any]] = done[0]

    def run(self, phase: str, items: Sequence[AudioQAItem], work: Work) -> BatchRecords:
        """All batches of a phase, those done before taken from the journal.

        Raises:
            What the work raised, or what another process's work raised.
        """
        batches = [[items[i] for i in indices] for indices in plan(items, self.batch_size)]
        for n, batch in enumerate(batches):
            self._check_done(phase, n, batch)
        todo = [n for n in range(len(batches)) if (phase, n) not in self.done]
        count, rank = self.processes.count, self.processes.rank
        loaded = load(self.to_load([batches[n] for n in todo[rank::count]]), self.workers)
        bar = ProgressBar(
            total=len(batches), initial=len(batches) - len(todo), desc=phase, unit="batch",
            file=sys.stderr, disable=not (self.verbose and self.processes.is_main), leave=False,
        )  # fmt: skip
        with bar:
            for start in range(0, len(todo), count):
                together = todo[start : start + count]
                self._round(phase, together, loaded, work)
                bar.update(len(together))
        parts = (BatchRecords.of_json(self.done[phase, n]) for n in range(len(batches)))
        return sum(parts, BatchRecords([]))

    def _check_done(self, phase: str, number: int, batch: Sequence[AudioQAItem]) -> None:
        """Refuse a batch that the journal has as one of other items."""
        there = {record["id"] for record in self.done.get((phase, number), {}).get("items", [])}
        if (phase, number) in self.done and there != {item.id for item in batch}:
            raise ValueError(
                f"the journal's batch {number} of {phase!r} is of other items; restore or remove it"
            )

    def _round(self, phase: str, numbers: list[int], loaded: Any, work: Work) -> None:
        """One batch in each process; what they give is recorded by the main process."""
        start = time.perf_counter()
        outcome, error = None, None
        try:
            if self.processes.rank < len(numbers):
                batch = next(loaded)
                self.spent.waiting += time.perf_counter() - start
                outcome = done(work, batch).to_json()
        except Exception as caught:
            error = caught
        for number, found in zip(numbers, self.processes.gather(outcome), strict=False):
            if found is not None:
                self.done[phase, number] = found
                if self.journal is not None:
                    self.journal.append(phase, number, found)
        self.processes.together(None, error)
        self.spent.total += time.perf_counter() - start


def done(work: Work, batch: LoadedBatch) -> BatchRecords:
    """The work of a loaded batch, with a record of each item that could not be loaded."""
    failed = [{"id": name, "failed": why} for name, why in batch.failed.items()]
    if batch.prompt is None:
        return BatchRecords(failed)
    return halving(work, batch.prompt, batch.items) + BatchRecords(failed)


def halving(work: Work, prompt: AudioPrompt, items: list[AudioQAItem]) -> BatchRecords:
    """The work of a batch; of its halves where memory runs out, down to one item, which then fails."""
    try:
        return work(prompt, items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, whose traceback would hold on to the memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) == 1:
        return BatchRecords([{"id": items[0].id, "failed": "out of memory, in a batch of its own"}])
    middle = len(items) // 2
    first = halving(work, rows(prompt, 0, middle), items[:middle])
    return first + halving(work, rows(prompt, middle, len(items)), items[middle:])
