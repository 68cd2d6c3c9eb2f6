"""A benchmark from its items to its results, on one process or many, begun or continued."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lens_audio import fingerprint
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.batches import BatchDataset
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.data.wording import wording
from lens_audio.evals.asking import Asker, Asking
from lens_audio.evals.items import AudioQADataset, is_calibration, refuse_missing
from lens_audio.evals.journal import Journal
from lens_audio.evals.metrics import unit_of
from lens_audio.evals.processes import Processes
from lens_audio.evals.protocol import STEERED, Chosen, Settings, calibrate, runs_of
from lens_audio.evals.records import answers, check_recorded
from lens_audio.evals.results import Results
from lens_audio.evals.runner import Records, Runner, Spent
from lens_audio.evals.runs import Run, checked_runs, facts_of_runs, with_controls, without_facts
from lens_audio.inputs.loading import longest_clip
from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.storage import model_facts

JOURNAL = "journal.jsonl"
FORMAT = 2  # of the journal; 1, which did not say so, told less of the model and the recordings


def evaluate(
    model: HookedAudioTransformer,
    dataset: AudioQADataset,
    folder: str | os.PathLike[str],
    settings: Settings | Asking | None = None,
    *,
    runs: Mapping[str, Run] | None = None,
    facts: Mapping[str, Any] | None = None,
    controls: int = 1,
    items: Sequence[AudioQAItem] | None = None,
    steering: AudioSilenceSteering | None = None,
    processes: Processes | None = None,
    workers: int = 2,
    verbose: bool = True,
) -> tuple[Results, Spent]:
    """Answer a benchmark under any runs, or by the paper's protocol; or continue what is in the folder.

    Items without a recording are asked as text alone, in batches of their own, which no run can
    change by the audio. The protocol, which is about audio, refuses them.

        evaluate(model, dataset, "results", runs={
            "deaf": hooks.knock_out_attention(keys="audio"),
            "aad": la.steering.contrastive(alpha=1.0),
            "steered": steering,
            "quiet": lambda prompt: prompt.silenced(),
        }, facts={"quiet": {"what": "silence"}})

    Args:
        folder: made if need be; holds the journal. `Results.write` puts everything else there.
        settings: how items are asked, `Asking`; by default generated answers to the benchmark's own
            prompt. Without `runs`, the paper's protocol: `Settings`.
        runs: what each does, by name; see `evals.runs`. The base, the model as it is, is added.
        facts: by run: what functions of the prompt do, and all that their effect depends on. Without
            it such a run is made, but cannot be continued.
        controls: random controls of each run that has any (steering vectors, audio-silence steering).
        items: some of the data set's; by default all.
        steering: of the protocol, instead of calibrating; then no item is set apart for that.
        processes: this process among several.
        workers: processes that decode recordings ahead of the model; 0 for none.

    Returns:
        The results, the same in every process, and how this process spent its time.

    Raises:
        FileNotFoundError: for missing recordings, named.
        TypeError: for a run that is none.
        ValueError: for a folder that holds another run, items that cannot be calibrated on or that
            have no recording and are for the protocol, or hooks set on the model, which would be
            measured in its place.
    """
    model.check_no_hooks()
    items = dataset.items if items is None else items
    if runs is None:
        needs_audio = f"{dataset.name}, by the paper's protocol, which asks about recordings"
        check_items(items, needs_audio, needs=("audio",))
    else:
        check_items(items, dataset.name)
    refuse_missing(items)
    processes = processes or Processes()
    asking = Asking(wording=wording(dataset.prompt)) if settings is None else settings
    named, of_controls, told = {}, {}, None  # type: dict[str, Run], dict[str, list[str]], Any
    if runs is not None:
        if isinstance(asking, Settings) or steering is not None:
            raise ValueError(
                "Settings and steering= are of the paper's protocol, which has its own runs; with "
                "runs={...} give settings=Asking(...) and the steering as a run"
            )
        named, of_controls = with_controls(checked_runs(runs), model, controls, asking.seed)
        told = facts_of_runs(named, facts or {})
    elif not isinstance(asking, Settings):
        raise ValueError("give runs={...}, or the settings of the paper's protocol, Settings(...)")
    else:
        asking = asking.fitting(steering, model.cfg.n_layers * model.cfg.n_heads)
        split(dataset, items, asking, steering)
    manifest = manifest_of(model, dataset, items, asking, steering, told)
    unknown = without_facts(named, told or {})
    with journal_of(folder, manifest, unknown, processes) as journal:
        to_load = partial(
            BatchDataset,
            processor=model.processor,
            wording=asking.wording,
            max_seconds=_longest(model, asking),
            n_ctx=model.cfg.n_ctx,
            cfg=model.cfg,
            max_new_tokens=asking.max_new_tokens,
        )
        runner = Runner(journal, processes, to_load, asking.batch_size, workers, verbose)
        check_judgements(runner.done.values(), dataset, items)
        asker = Asker(model, dataset, asking)
        if isinstance(asking, Settings):
            items, records, chosen = follow(asker, runner, asking, items, steering)
        else:
            records, chosen = answers(asker, runner, items, named), None
    return Results(dataset, items, records, manifest, chosen, of_controls), runner.spent


@contextmanager
def journal_of(
    folder: str | os.PathLike[str],
    manifest: dict[str, Any],
    unknown: Sequence[str],
    processes: Processes,
) -> Iterator[Journal | None]:
    """The journal in a folder, open in the main process alone, once all agree on what is evaluated.

    Args:
        unknown: the runs that cannot be told from others, so that a journal that holds anything is
            refused.

    Raises:
        ValueError: in every process, for a folder that cannot be continued, or different manifests.
    """
    journal, error = None, None
    if processes.is_main:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            journal = Journal(Path(folder) / JOURNAL, manifest, check_recorded)
            refuse_unknown(journal, unknown)
        except Exception as caught:
            error = caught
    try:
        manifests = processes.together(manifest, error)
        if manifests != [manifest] * len(manifests):
            raise ValueError("the processes of this run have different models, data or settings")
        yield journal
    finally:
        if journal is not None:
            journal.close()


def follow(
    asker: Asker,
    runner: Runner,
    settings: Settings,
    items: Sequence[AudioQAItem],
    steering: AudioSilenceSteering | None,
) -> tuple[Sequence[AudioQAItem], Records, Chosen | None]:
    """The paper's protocol: the items it answers, their records, and what it chose."""
    calibration, test = split(asker.dataset, items, settings, steering)
    chosen = None if steering is None else Chosen(steering, None)
    if calibration:
        chosen = calibrate(asker, runner, settings, calibration)
    runs = runs_of(settings, chosen, asker.model.cfg)
    listening = None if chosen is None or STEERED not in runs else chosen.steering
    return test, answers(asker, runner, test, runs, listening), chosen


def refuse_unknown(journal: Journal, names: Sequence[str]) -> None:
    """Refuse to continue runs that cannot be told from others.

    Raises:
        ValueError: naming one.
    """
    if journal.done and names:
        raise ValueError(
            f"cannot continue: the run {names[0]!r} is a function, which cannot be told from another. "
            f"Give facts={{{names[0]!r}: {{...}}}}, with a name for what it does and every value that its "
            "effect depends on, from the first time on; or give another folder"
        )


def _longest(model: HookedAudioTransformer, asking: Asking) -> float:
    """The most seconds of a recording that are asked about."""
    longest = longest_clip(model.processor, model.cfg.audio.timing)
    return min(asking.max_seconds or longest, longest)


def split(
    dataset: AudioQADataset,
    items: Sequence[AudioQAItem],
    settings: Settings,
    steering: AudioSilenceSteering | None,
) -> tuple[list[AudioQAItem], list[AudioQAItem]]:
    """Calibration items, where any are needed, and the others; a unit of the benchmark is not split.

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
    chosen = [is_calibration(unit_of(dataset, item), share, seed) for item in items]
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
    asking: Asking,
    steering: AudioSilenceSteering | None,
    runs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What an evaluation is: it is continued only where all of this is the same."""
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
        "settings": asking.facts(),
        "steering": None if steering is None else steering.facts(),
        "versions": fingerprint.versions(),
        **({} if runs is None else {"runs": dict(runs)}),
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
