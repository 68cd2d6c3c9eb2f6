"""What each phase of an evaluation records of a batch, and the phase "answers" itself."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lens_audio.analysis.listening import listening_score
from lens_audio.data.items import AudioQAItem
from lens_audio.evals.asking import Asker, rounded
from lens_audio.evals.runner import BatchRecords, Records, Runner
from lens_audio.evals.runs import Run
from lens_audio.inputs import AudioPrompt
from lens_audio.steering.audio_silence import AudioSilenceSteering

# What each phase records of an item that could be read, besides its id.
RECORDED: dict[str, Mapping[str, type]] = {
    "listening": {"mass": list, "text": str, "prediction": str, "correct": bool},
    "strength": {"correct": list},
    "answers": {"prompt": str, "runs": dict},
}
ANSWERED = {"text": str, "prediction": str}


def check_recorded(phase: str, outcome: dict[str, Any]) -> None:
    """Refuse an outcome that no batch of this phase gives.

    Raises:
        ValueError: that.
    """
    for record in BatchRecords.of_json(outcome).items:
        form: Mapping[str, type] | None
        form = {"failed": str} if "failed" in record else RECORDED.get(phase)
        answers = record.get("runs", {}) if phase == "answers" else {}
        fits = form is not None and _has(record, form) and isinstance(answers, dict)
        if not fits or not all(_has(answer, ANSWERED) for answer in answers.values()):
            raise ValueError(f"no record of the phase {phase!r}: {record}")


def _has(record: Any, form: Mapping[str, type]) -> bool:
    return isinstance(record, dict) and all(
        isinstance(record.get(name), kind) and (kind is not list or _is_array(record[name]))
        for name, kind in form.items()
    )


def _is_array(value: list[Any]) -> bool:
    """Whether a list, of lists, … is of numbers or truth values alone, and rectangular."""
    try:
        return np.asarray(value).dtype.kind in "bif"
    except ValueError:  # not rectangular
        return False


def answers(
    asker: Asker,
    runner: Runner,
    items: Sequence[AudioQAItem],
    runs: Mapping[str, Run],
    listening: AudioSilenceSteering | None = None,
) -> Records:
    """A record for each item, in order: every run's answer, or why it could not be asked.

    Args:
        listening: steering whose listening score and direction's norm are recorded of each item.
    """
    outcome = runner.run("answers", items, partial(_answer, asker, runs, listening))
    return in_order(outcome.items, items)


def _answer(
    asker: Asker,
    runs: Mapping[str, Run],
    listening: AudioSilenceSteering | None,
    prompt: AudioPrompt,
    items: list[AudioQAItem],
) -> BatchRecords:
    assert prompt.texts is not None
    found, said = asker.answers(runs, prompt, items)
    told: list[dict[str, Any]] = [{} for _ in items]
    if listening is not None:
        scores = listening_score(found.mass, listening.heads)
        norms = found.direction(listening.layers).norm(dim=1)
        told = [
            {"listening_score": rounded(score), "direction_norm": rounded(norm)}
            for score, norm in zip(scores, norms, strict=True)
        ]
    return BatchRecords(
        [
            {
                "id": item.id,
                **told[row],
                "prompt": prompt.texts[row],
                "runs": {run: rows[row] for run, rows in said.items()},
            }
            for row, item in enumerate(items)
        ]
    )


def in_order(records: Records, items: Sequence[AudioQAItem]) -> Records:
    """The records, one an item, in the items' order."""
    by_id = {record["id"]: record for record in records}
    return [by_id[item.id] for item in items]
