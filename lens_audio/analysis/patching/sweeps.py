"""The sweep: every cell of a grid patched, by either engine, kept as it goes."""

import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio import fingerprint
from lens_audio.analysis.metrics import AppliedMetric, MetricFunction, logits_needed, metric_name
from lens_audio.analysis.patching.alignment import BaseAndSource, not_given
from lens_audio.analysis.patching.cells import (
    Grid,
    SweptNeurons,
    make_grid,
    swept_heads,
    swept_neurons,
)
from lens_audio.analysis.patching.fast import FastPatcher
from lens_audio.analysis.patching.naive import NaivePatcher
from lens_audio.analysis.patching.positions import SweptPositions, sweep_masks
from lens_audio.analysis.patching.progress import Progress, request_of
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.progress_bar import ProgressBar
from lens_audio.sites import Heads, Layers, Site

Metrics = MetricFunction | Mapping[str, MetricFunction]


@torch.no_grad()
def sweep(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    site: str | None = None,
    metric: Metrics | None = None,
    *,
    positions: SweptPositions = None,
    layers: Layers = None,
    heads: str | Heads = None,
    neurons: SweptNeurons = None,
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
            encoder frames of 20 ms); "audio_embed", what is written at the audio positions, "embed"
            or "audio_encoder.embed"; or a hook name in a block.
        metric: a function of the last position's logits, [example, d_vocab] -> [example], or of
            TransformerLens's form, [example, pos, d_vocab] -> [example]; or several by name
            (`analysis.metrics` has the usual ones, and the forms).
        positions: "each" (the default) makes every position a cell; a dictionary makes each of its
            selections one (`time_windows`, `token_groups`); one selection ("last", "audio", "text",
            "all", integers, a slice, a mask) is patched whole in every cell. Of a "group" pair every
            group is a cell by default, or each of some names of groups; one name ("last", "audio",
            "all") is patched whole in every cell.
        layers: all by default; negative ones count from the last.
        heads: "each" or some, each its own cell; None patches all heads together.
        neurons: of "mlp_post", "mlp_pre" or "mlp_pre_linear": "each" or some, each its own cell, or a
            dictionary, each of whose selections is one (`neuron_blocks`); None patches all together.
        direction: "denoise" patches clean activations into the corrupted run, "noise" the reverse.
        engine: "fast" or "naive".
        batch_tokens: positions computed at once, at most; by default as many as the prompts have,
            or 4,096 if that is more. It is halved when memory runs out.
        resume_from: a file that keeps what is done, written every 256 cells and every 30 s; an
            interrupted sweep of the same model, prompts and cells continues from it.
        verbose: show a progress bar.

    Raises:
        ValueError: for prompts of unequal shape, an empty or impossible selection, a site that has
            no group patches, a metric that is NaN on the unpatched runs, not one number an example
            or of a form that cannot be told, hooks left on the model, or a `resume_from` file of
            another sweep, saying what differs.
        OSError: for a `resume_from` that cannot be written, before anything is run, or that
            another sweep is writing.
    """
    steps = sweep_steps(
        model, clean, corrupted, site, metric, positions=positions, layers=layers, heads=heads,
        neurons=neurons, direction=direction, engine=engine,
        batch_tokens=batch_tokens, resume_from=resume_from,
    )  # fmt: skip
    n_done, n_cells, result = next(steps)
    bar = ProgressBar(total=n_cells, initial=n_done, desc="patching", unit="cell", disable=not verbose,
               delay=1, leave=False)  # fmt: skip
    with bar, closing(steps):
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
    positions: SweptPositions = None,
    layers: Layers = None,
    heads: str | Heads = None,
    neurons: SweptNeurons = None,
    direction: str = "denoise",
    engine: str = "fast",
    batch_tokens: int | None = None,
    resume_from: str | os.PathLike[str] | None = None,
) -> Generator[tuple[int, int, PatchingResult], None, None]:
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
    runs = BaseAndSource.of(model, clean, corrupted, direction)
    asked = Site.of(site)
    where = asked.in_block()
    progress = Progress(resume_from)
    runs.check_site(asked)
    base, source, align = runs.base, runs.source, runs.alignment(where.in_encoder)
    chosen = asked.layers(model.cfg, layers), swept_heads(asked, heads, model.cfg)
    some_neurons = swept_neurons(asked, neurons, model.cfg)
    masks, axis = sweep_masks(asked, positions, base, align)
    grid = make_grid(masks, axis, *chosen, some_neurons)
    metrics = by_name(metric)
    n_last = logits_needed(metrics.values(), base, source)
    patcher = (FastPatcher if engine == "fast" else NaivePatcher)(
        model, where, base, source, grid.cells, n_last, align
    )
    unpatched = patcher.base_logits, patcher.source_logits
    applied = [AppliedMetric.to(m, *unpatched, name=n) for n, m in metrics.items()]
    about = {"site": asked.name, "direction": direction, "model": model.cfg.model_name}
    about |= runs.about(where.in_encoder, masks.values())
    result = _unfilled(grid, applied, unpatched, about)
    if progress.path is not None:
        facts = about | {"axes": result.axes}
        if align is not None:
            facts["groups"] = fingerprint.of_request([align.index, align.weights])
        request = request_of(model, grid.cells, facts, base=base, source=source)
        # Some logits more, because a normalised metric is 0 and 1 on the two runs whatever it is of.
        probe = values_of(applied, patcher.base_logits.flip(-1))
        progress.begin(result, request, probe, model.embed.W_E.dtype)
    todo = [cell for cell in grid.cells if bool(result.values[(0, *cell.index)].isnan().all())]
    n_done, n_cells = len(grid.cells) - len(todo), len(grid.cells)
    try:  # what is done is kept whatever happens
        yield n_done, n_cells, result
        for cell, logits in patcher.run(todo, batch_tokens):
            result.values[(slice(None), *cell.index)] = values_of(applied, logits)  # type: ignore[index]
            n_done += 1
            progress.cell_done()
            yield n_done, n_cells, result
            model.check_no_hooks()
    finally:
        progress.close()


def by_name(metric: Metrics) -> dict[str, MetricFunction]:
    """The metrics of a sweep, one or several, by their names.

    Raises:
        ValueError: for none.
    """
    metrics = dict(metric) if isinstance(metric, Mapping) else {metric_name(metric): metric}
    if not metrics:
        raise ValueError("no metric was given")
    return metrics


def values_of(
    metrics: Sequence[AppliedMetric],
    logits: Float[Tensor, "example last d_vocab"],
    *,
    allow_nan: bool = True,
) -> Float[Tensor, "metric example"]:
    """Each metric of the last positions' logits of a run."""
    values = [metric(logits, allow_nan=allow_nan) for metric in metrics]
    return torch.stack([value.detach().float().cpu() for value in values])


def _unfilled(
    grid: Grid,
    metrics: Sequence[AppliedMetric],
    unpatched: tuple[Tensor, Tensor],
    about: dict[str, Any],
) -> PatchingResult:
    """The result before any cell has run: NaN between the metrics of the base and the source run."""
    base, source = (values_of(metrics, logits, allow_nan=False) for logits in unpatched)
    examples = [str(i) for i in range(base.shape[1])]
    axes = {"metric": [metric.name for metric in metrics], **grid.axes, "example": examples}
    values = torch.full([len(labels) for labels in axes.values()], torch.nan)
    return PatchingResult(values, axes, base, source, about)
