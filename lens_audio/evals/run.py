"""A benchmark from its items to its results, on one process or many, begun or gone on with."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lens_audio.evals.batches import Runner, Spent
from lens_audio.evals.items import (
    AudioQADataset,
    AudioQAItem,
    check_items,
    fingerprint,
    is_calibration,
    missing_audio,
)
from lens_audio.evals.journal import Journal
from lens_audio.evals.loading import Batches
from lens_audio.evals.processes import Processes
from lens_audio.evals.protocol import Chosen, Evaluation, Settings
from lens_audio.evals.results import Results
from lens_audio.model import HookedAudioTransformer
from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.storage import model_facts, versions

JOURNAL = "journal.jsonl"
SAMPLED = 256  # numbers of each weight that its fingerprint is of


def evaluate(
    model: HookedAudioTransformer,
    dataset: AudioQADataset,
    folder: str | os.PathLike[str],
    settings: Settings,
    *,
    items: Sequence[AudioQAItem] | None = None,
    steering: AudioSilenceSteering | None = None,
    processes: Processes | None = None,
    workers: int = 2,
    verbose: bool = True,
) -> tuple[Results, Spent]:
    """Run the protocol, or go on with the run that is in the folder.

    Args:
        folder: made if need be; holds the journal. `Results.write` puts everything else there.
        items: some of the data set's; by default all.
        steering: instead of calibrating; then no item is set apart for that.
        processes: this process among several.
        workers: processes that decode recordings ahead of the model; 0 for none.

    Returns:
        The results, the same in every process, and how this process spent its time.

    Raises:
        FileNotFoundError: for missing recordings, named.
        ValueError: for a folder that holds another run, items that cannot be calibrated on, or hooks
            set on the model, which would be measured in its place.
    """
    model.check_no_hooks()
    items = dataset.items if items is None else items
    check_items(items, dataset.name)
    refuse_missing(items)
    settings = settings.fitting(steering, model.cfg.n_layers * model.cfg.n_heads)
    processes = processes or Processes()
    calibration, test = split(items, settings, steering)
    manifest = manifest_of(model, dataset, items, settings, steering)
    journal, error = None, None
    if processes.is_main:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            journal = Journal(Path(folder) / JOURNAL, manifest)
        except Exception as caught:
            error = caught
    processes.together(None, error)
    try:
        extractor = model.processor.feature_extractor
        heard = extractor.n_samples / extractor.sampling_rate
        to_load = partial(
            Batches,
            processor=model.processor,
            wording=settings.wording,
            max_seconds=min(settings.max_seconds or heard, heard),
            n_ctx=model.cfg.n_ctx,
            max_new_tokens=settings.max_new_tokens,
        )
        runner = Runner(journal, processes, to_load, settings.batch_size, workers, verbose)
        run = Evaluation(model, dataset, settings, runner)
        chosen = None if steering is None else Chosen(steering, None)
        if calibration:
            chosen = run.calibrate(calibration)
        records = run.answer(test, chosen)
    finally:
        if journal is not None:
            journal.close()
    return Results(dataset, test, records, manifest, chosen), runner.spent


def refuse_missing(items: Sequence[AudioQAItem], shown: int = 20) -> None:
    """Raise a FileNotFoundError that lists items without a recording, if there are any."""
    missing = missing_audio(items)
    if missing:
        names = ", ".join(item.audio.name for item in missing[:shown])
        more = f" and {len(missing) - shown} more" if len(missing) > shown else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(items)} recordings are missing: {names}{more}"
        )


def split(
    items: Sequence[AudioQAItem], settings: Settings, steering: AudioSilenceSteering | None
) -> tuple[list[AudioQAItem], list[AudioQAItem]]:
    """Calibration items, where any are needed, and the others.

    Raises:
        ValueError: where answers are withheld that calibration needs, or a side is empty.
    """
    if steering is not None or not settings.steers:
        return [], list(items)
    if any(item.answer is None for item in items):
        raise ValueError(
            "this split's answers are withheld, so heads and beta cannot be chosen on it; give "
            "steering that was calibrated on another, or leave out the runs that steer"
        )
    share, seed = settings.calibration_share, settings.seed
    chosen = [is_calibration(item.id, share, seed) for item in items]
    if all(chosen) or not any(chosen):
        raise ValueError(f"{len(items)} items are too few to split")
    sides = ([], [])  # type: tuple[list[AudioQAItem], list[AudioQAItem]]
    for item, calibrates in zip(items, chosen, strict=True):
        sides[0 if calibrates else 1].append(item)
    return sides


def manifest_of(
    model: HookedAudioTransformer,
    dataset: AudioQADataset,
    items: Sequence[AudioQAItem],
    settings: Settings,
    steering: AudioSilenceSteering | None,
) -> dict[str, Any]:
    """What a run is: it is gone on with only where all of this is the same."""
    dtype = str(model.embed.W_E.dtype).removeprefix("torch.")
    return {
        "benchmark": {
            "name": dataset.name,
            "version": dataset.version,
            "n_items": len(items),
            "fingerprint": fingerprint(items, dataset.matches),
        },
        "model": {**model_facts(model), "dtype": dtype, "weights": weights_fingerprint(model)},
        "device": model.device.type,
        "settings": settings.facts(),
        "steering": None if steering is None else steering_facts(steering),
        "versions": versions(),
    }


def steering_facts(steering: AudioSilenceSteering) -> dict[str, Any]:
    """What steering it is, a fixed direction by its hash."""
    direction = steering.direction
    if direction is None:
        return steering.facts()
    digest = hashlib.sha256(direction.detach().float().cpu().numpy().tobytes()).hexdigest()
    return {**steering.facts(), "direction": digest[:16]}


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of each weight's name, shape and some of its numbers, spread over all of it."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        if not weight.is_meta:  # offloaded to where it is not at hand
            some = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
            digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
