"""Activation patching sweeps: which layer, position, time or head carries the answer?

Two engines with the same answer. `naive` runs the whole model for every cell. `fast`, the default,
runs only what a patch can change: the layers from its own on, at its positions and later ones
(causal masking makes that exact), over the keys and values that the rest of the prompt left behind.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_audio import hooks
from lens_audio.analysis.alignment import Alignment, Runs, not_given
from lens_audio.analysis.cells import Cell, Positions, Site, check_no_hooks, make_grid
from lens_audio.analysis.fast_patching import FastPatcher
from lens_audio.analysis.metrics import metric_name
from lens_audio.analysis.positions import positions_by, sweep_masks, time_windows, token_groups
from lens_audio.analysis.result import PatchingResult
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.model import HookedAudioTransformer

MetricFunction = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]
Metrics = MetricFunction | Mapping[str, MetricFunction]

__all__ = [
    "PatchingResult",
    "positions_by",
    "sweep",
    "sweep_steps",
    "time_windows",
    "token_groups",
]


@torch.no_grad()
def sweep(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    site: str | None = None,
    metric: Metrics | None = None,
    *,
    positions: Positions | None = None,
    layers: Iterable[int] | None = None,
    heads: str | int | Iterable[int] | None = None,
    direction: str = "denoise",
    engine: str = "fast",
    batch_tokens: int | None = None,
    resume_from: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> PatchingResult:
    """Patch activations of one run into the other, one cell at a time.

    Args:
        clean, corrupted: prompts of the same shape with their audio at the same positions; a batch
            is patched row by row, all rows at once. Of recordings or questions of unequal length
            `lens_audio.data.pair` makes a pair, which stands in the place of both.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v",
            "pattern", "mlp_post", …; "audio_encoder.resid_post" and its like (positions are then
            encoder frames of 20 ms); or "audio_embed", what the projector writes.
        metric: a function of the last position's logits, [example, d_vocab] -> [example], or
            several by name (`analysis.metrics` has the usual ones).
        positions: "each" (the default) makes every position a cell; a dictionary makes each of its
            selections one (`time_windows`, `token_groups`); one selection ("last", "audio",
            integers, a mask) is patched whole in every cell. Of a "group" pair every group is a
            cell by default, or each of some names of groups; one name ("last", "audio", "all")
            is patched whole in every cell.
        layers: all by default.
        heads: "each" or some, each its own cell; None patches all heads together.
        direction: "denoise" patches clean activations into the corrupted run, "noise" the reverse.
        engine: "fast" or "naive".
        batch_tokens: positions computed at once, at most; by default as many as the prompts have,
            or 4,096 if that is more. It is halved when memory runs out.
        resume_from: a file that keeps what is done; an interrupted sweep with the same arguments
            continues from it.
        verbose: show a progress bar.

    Raises:
        ValueError: for prompts of unequal shape, an empty or impossible selection, a site that has
            no group patches, a metric that is NaN on the unpatched runs or not one number an
            example, hooks left on the model, or a `resume_from` file of another sweep.
    """
    steps = sweep_steps(
        model, clean, corrupted, site, metric, positions=positions, layers=layers, heads=heads,
        direction=direction, engine=engine, batch_tokens=batch_tokens, resume_from=resume_from,
    )  # fmt: skip
    n_done, n_cells, result = next(steps)
    bar = tqdm(total=n_cells, initial=n_done, desc="patching", unit="cell", disable=not verbose,
               delay=1, leave=False)  # fmt: skip
    with bar:
        for _ in steps:
            bar.update()
    n_undefined = int(result.values.isnan().sum())
    if n_undefined:
        warnings.warn(f"{n_undefined} values are NaN: the metric is undefined there", stacklevel=2)
    return result


@torch.no_grad()
def sweep_steps(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    site: str | None = None,
    metric: Metrics | None = None,
    *,
    positions: Positions | None = None,
    layers: Iterable[int] | None = None,
    heads: str | int | Iterable[int] | None = None,
    direction: str = "denoise",
    engine: str = "fast",
    batch_tokens: int | None = None,
    resume_from: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[int, int, PatchingResult]]:
    """A sweep to watch, or to stop half way: the same as `sweep`, cell by cell.

    No hook is on the model between two steps, so other things may be run there. Hooks that are left
    on it then are refused at the next step.

    Yields:
        Cells done, cells in all, and the result so far: always the same object, NaN where nothing
        has run yet. The first comes before any cell.
    """
    if site is None or metric is None:
        raise not_given(site=site, metric=metric)
    if engine not in ("fast", "naive"):
        raise ValueError(f"engine must be 'fast' or 'naive', not {engine!r}")
    runs = Runs.of(model, clean, corrupted, direction)
    where = Site.of(model, site)
    runs.check_site(site)
    base, source, align = runs.base, runs.source, runs.alignment(where.in_encoder)
    masks, axis = sweep_masks(where, site, positions, base, align)
    grid = make_grid(where, masks, axis, [0] if site == "audio_embed" else layers, heads)
    metrics = dict(metric) if isinstance(metric, Mapping) else {metric_name(metric): metric}
    if not metrics:
        raise ValueError("no metric was given")
    patcher: FastPatcher | NaivePatcher
    if engine == "fast":
        patcher = FastPatcher(model, where, base, source, grid.cells, batch_tokens, align)
    else:
        patcher = NaivePatcher(model, where, base, source, grid.cells, align)
    evaluate = Evaluation(metrics, n_examples=len(base.tokens))
    about = {"site": site, "direction": direction, "model": model.cfg.model_name}
    about |= runs.about(where.in_encoder, masks.values())
    base_values, source_values = evaluate(patcher.base_logits), evaluate(patcher.source_logits)
    evaluate.refuse_nan(base_values, source_values)
    result = PatchingResult(
        values=torch.full((len(metrics), *grid.shape, len(base.tokens)), torch.nan),
        axes={
            "metric": list(metrics),
            **grid.axes,
            "example": [str(i) for i in range(len(base.tokens))],
        },
        base=base_values,
        source=source_values,
        about=about,
    )
    progress = _Progress(resume_from, result, base, source)
    todo = [cell for cell in grid.cells if bool(result.values[(0, *cell.index)].isnan().all())]
    n_done, n_cells = len(grid.cells) - len(todo), len(grid.cells)
    yield n_done, n_cells, result
    try:  # what is done is kept whatever happens
        for cell, logits in patcher.run(todo):
            result.values[(slice(None), *cell.index)] = evaluate(logits)  # type: ignore[index]
            n_done += 1
            if n_done % 256 == 0:
                progress.write()
            yield n_done, n_cells, result
            check_no_hooks(model)
    finally:
        progress.write()


@dataclass
class Evaluation:
    """The metrics, applied to the logits of one or more cells."""

    metrics: Mapping[str, MetricFunction]
    n_examples: int

    def __call__(self, logits: Float[Tensor, "example d_vocab"]) -> Float[Tensor, "metric example"]:
        rows = []
        for name, function in self.metrics.items():
            value = torch.as_tensor(function(logits)).detach()
            if value.shape != (self.n_examples,):
                raise ValueError(
                    f"metric {name!r} gave shape {tuple(value.shape)} for {self.n_examples} examples; "
                    "it must give one number an example"
                )
            rows.append(value.float().cpu())
        return torch.stack(rows)

    def refuse_nan(self, *values: Float[Tensor, "metric example"]) -> None:
        """Raises ValueError where a metric of the unpatched runs is NaN."""
        for name, row in zip(self.metrics, torch.cat(values, dim=1), strict=True):
            if bool(row.isnan().any()):
                raise ValueError(f"metric {name!r} is NaN on the clean or the corrupted run")


class NaivePatcher:
    """A whole forward for every cell."""

    def __init__(
        self,
        model: HookedAudioTransformer,
        site: Site,
        base: AudioPrompt,
        source: AudioPrompt,
        cells: list[Cell],
        align: Alignment | None = None,
    ) -> None:
        self.model, self.site, self.base = model, site, base
        names = sorted({site.hook_name(cell.layer) for cell in cells})
        logits, cache = model.run_with_cache(source, names_filter=names, logits_to_keep=1)
        self.source_cache = {name: cache[name] if align is None else align(cache[name])
                             for name in names}  # fmt: skip
        self.source_logits = logits[:, -1]
        self.base_logits = model(base, logits_to_keep=1)[:, -1]

    def run(self, cells: list[Cell]) -> Iterator[tuple[Cell, Float[Tensor, "example d_vocab"]]]:
        for cell in cells:
            name = self.site.hook_name(cell.layer)
            patch = hooks.patch(
                name, source=self.source_cache, heads=cell.head, positions=cell.positions
            )
            logits = self.model.run_with_hooks(self.base, fwd_hooks=patch, logits_to_keep=1)
            yield cell, logits[:, -1]


class _Progress:
    """The file that an interrupted sweep continues from."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        result: PatchingResult,
        base: AudioPrompt,
        source: AudioPrompt,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.result = result
        if self.path is None:
            return
        result.about["fingerprint"] = _fingerprint(result, base, source)
        if self.path.exists():
            kept = PatchingResult.load(self.path)
            if kept.about.get("fingerprint") != result.about["fingerprint"]:
                raise ValueError(
                    f"{path} holds a sweep of other prompts, another model, site, metric or axes; "
                    "give another file, or delete it"
                )
            result.values.copy_(kept.values)

    def write(self) -> None:
        if self.path is not None:
            self.result.save(self.path)


def _fingerprint(result: PatchingResult, base: AudioPrompt, source: AudioPrompt) -> str:
    """A hash of what was asked: inputs, axes, and the unpatched values, which tell the weights."""
    digest = hashlib.sha256(json.dumps([result.axes, result.about], sort_keys=True).encode())
    for tensor in (base.tokens, base.mel, source.tokens, source.mel, result.base, result.source):
        if tensor is not None:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
