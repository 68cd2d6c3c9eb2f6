"""A benchmark from its items to its results, on one process or many, begun or continued."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lens_audio import fingerprint
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.batches import BatchDataset
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.evals.items import AudioQADataset, is_calibration, missing_audio
from lens_audio.evals.journal import Journal
from lens_audio.evals.processes import Processes
from lens_audio.evals.protocol import Chosen, Settings, SteeringProtocol, check_recorded
from lens_audio.evals.report import Results
from lens_audio.evals.runner import Runner, Spent
from lens_audio.inputs.loading import longest_clip
from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.storage import model_facts

JOURNAL = "journal.jsonl"
FORMAT = 2  # of the journal; 1, which did not say so, told less of the model and the recordings


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
    """Run the protocol, or continue the run that is in the folder.

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
    check_items(items, dataset.name, needs=("audio",))
    refuse_missing(items)
    settings = settings.fitting(steering, model.cfg.n_layers * model.cfg.n_heads)
    processes = processes or Processes()
    calibration, test = split(items, settings, steering)
    manifest = manifest_of(model, dataset, items, settings, steering)
    journal, error = None, None
    if processes.is_main:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            journal = Journal(Path(folder) / JOURNAL, manifest, check_recorded)
        except Exception as caught:
            error = caught
    manifests = processes.together(manifest, error)
    try:
        if manifests != [manifest] * len(manifests):
            raise ValueError("the processes of this run have different models, data or settings")
        longest = longest_clip(model.processor, model.cfg.audio.timing)
        to_load = partial(
            BatchDataset,
            processor=model.processor,
            wording=settings.wording,
            max_seconds=min(settings.max_seconds or longest, longest),
            n_ctx=model.cfg.n_ctx,
            cfg=model.cfg,
            max_new_tokens=settings.max_new_tokens,
        )
        runner = Runner(journal, processes, to_load, settings.batch_size, workers, verbose)
        check_judgements(runner.done.values(), dataset, items)
        protocol = SteeringProtocol(model, dataset, settings, runner)
        chosen = None if steering is None else Chosen(steering, None)
        if calibration:
            chosen = protocol.calibrate(calibration)
        records = protocol.answer(test, chosen)
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
    """What a run is: it is continued only where all of this is the same."""
    dtype = str(model.embed.W_E.dtype).removeprefix("torch.")
    processor = fingerprint.of_processor(model.processor)
    return {
        "format": FORMAT,
        "benchmark": {
            "name": dataset.name,
            "version": dataset.version,
            "n_items": len(items),
            "fingerprint": fingerprint.of_items(items, dataset.matches),
        },
        "model": {
            **model_facts(model),
            "dtype": dtype,
            **fingerprint.of_model(model),
            "processor": processor,
        },
        "device": model.device.type,
        "settings": settings.facts(),
        "steering": None if steering is None else steering.facts(),
        "versions": fingerprint.versions(),
    }


def check_judgements(
    done: Iterable[dict[str, Any]], dataset: AudioQADataset, items: Sequence[AudioQAItem]
) -> None:
    """Refuse to continue from answers that the benchmark would now judge otherwise.

    The code of `matches` cannot be told from another's; its judgements can.

    Raises:
        ValueError: naming an item.
    """
    asked = {item.id: item for item in items}
    for record in (record for outcome in done for record in outcome["items"]):
        item = asked.get(record["id"])
        for answer in (record, *record.get("runs", {}).values()):
            if item is None or item.answer is None or "prediction" not in answer:
                continue
            right = bool(dataset.matches(answer["prediction"], item.answer, item.choices))
            if right != answer.get("correct"):
                raise ValueError(
                    f"cannot continue: {answer['prediction']!r} to item {item.id!r} was judged "
                    f"{'wrong' if right else 'right'} and is now {'right' if right else 'wrong'}, "
                    "so the benchmark's `matches` has changed. Give another folder"
                )
