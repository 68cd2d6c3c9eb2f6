"""The file that an interrupted sweep continues from."""

import os
import time
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio import files, fingerprint
from lens_audio.analysis.patching.result import PatchingResult

CELLS, SECONDS = 256, 30.0  # after so many cells, or so long, the file is written


class Progress:
    """What a sweep has done, in a file that one sweep at a time writes; without a path, nothing.

    Raises:
        OSError: for a path that cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else files.check_writable(path)
        self._lock: files.FileLock | None = None
        self._unwritten, self._written_at = 0, 0.0

    def begin(
        self,
        result: PatchingResult,
        request: dict[str, Any],
        probe: Float[Tensor, "metric example"],
        dtype: torch.dtype,
    ) -> None:
        """Lock the file and take from it what was done.

        Args:
            result: of this sweep, whose values are filled in.
            request: what the sweep is; see `request_of`.
            probe: the metrics of some logits other than those of the unpatched runs.
            dtype: of the weights.

        Raises:
            ValueError: for a file of another sweep, saying what differs.
            BlockingIOError: while another sweep writes it.
        """
        assert self.path is not None
        self.result, self._written_at = result, time.monotonic()
        self._lock = files.FileLock(self.path)
        result.about |= {"request": request, "probe": probe.tolist()}
        try:
            if self.path.exists():
                self._continue(PatchingResult.load(self.path), dtype)
        except BaseException:
            self.close()
            raise

    def cell_done(self) -> None:
        """One cell more; what is done is written every so often."""
        self._unwritten += 1
        is_late = time.monotonic() - self._written_at >= SECONDS
        if self._unwritten >= CELLS or is_late:
            self.write()

    def write(self) -> None:
        """Write what is not yet written."""
        if self.path is not None and self._unwritten:
            self.result.save(self.path)
            self._unwritten, self._written_at = 0, time.monotonic()

    def close(self) -> None:
        """Write the rest, and let another sweep write the file."""
        if self._lock is not None:
            try:
                self.write()
            finally:
                self._lock.release()

    def _continue(self, kept: PatchingResult, dtype: torch.dtype) -> None:
        about, now = kept.about, self.result.about
        if not isinstance(about.get("request"), dict):
            raise ValueError(
                f"{self.path} does not tell of which model and prompts it is: "
                + (
                    "an earlier version of lens_audio wrote it"
                    if "fingerprint" in about
                    else "it was saved by a sweep without resume_from"
                )
                + ". PatchingResult.load reads its values; give another file to resume from"
            )
        changed = fingerprint.differences(about["request"], now["request"])
        if changed or kept.values.shape != self.result.values.shape:
            raise ValueError(
                f"{self.path} holds another sweep: {'; '.join(changed) or 'its values are damaged'}. "
                "Give another file, or delete it"
            )
        different = _other_metrics(kept, self.result, dtype)
        if different:
            raise ValueError(
                f"{self.path} holds a sweep of other metrics: {', '.join(different)} had other "
                "values on the unpatched runs. Give another file, or delete it"
            )
        self.result.values.copy_(kept.values)


def request_of(
    model: Any, cells: Iterable[Any], about: dict[str, Any], **prompts: Any
) -> dict[str, Any]:
    """What a sweep is, whatever engine runs it."""
    return {
        **{name: value for name, value in about.items() if name != "model"},
        "cells": fingerprint.of_request(cells),
        "model": fingerprint.of_model(model),
        **{name: fingerprint.of_prompt(prompt) for name, prompt in prompts.items()},
        "device": model.device.type,
        "versions": fingerprint.versions(),
    }


def _other_metrics(kept: PatchingResult, now: PatchingResult, dtype: torch.dtype) -> list[str]:
    """Metrics by name whose values on the unpatched runs and on the probe are not what they were.

    They may differ by half the digits of the weights' dtype (the root of its epsilon, of the
    metric's largest value): another engine or another number of threads adds in another order and
    moves the last digits, another metric the first.
    """
    before, after = (
        torch.cat([r.base, r.source, torch.tensor(r.about["probe"])], dim=1) for r in (kept, now)
    )
    largest = after.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True)
    close = (before - after).abs() <= torch.finfo(dtype).eps ** 0.5 * largest
    same = close | (before == after) | (before.isnan() & after.isnan())
    return [name for name, row in zip(now.metrics, same, strict=True) if not bool(row.all())]
