"""The paper's protocol on a benchmark: calibrate on one split, answer the other in every run.

Glazer, Aharon, Fetaya, arXiv 2603.06854. On the calibration split the heads whose attention on the
audio goes with right answers are found, then the number k of them and the strength beta by answering
under every setting. On the other items the model answers as it is and under each control.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.listening import Correlation, correlate, listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem
from lens_audio.data.wording import Wording
from lens_audio.evals.answering import generate, option_log_probs
from lens_audio.evals.extraction import extract, is_closed
from lens_audio.evals.items import AudioQADataset
from lens_audio.evals.prefill import Prefilled, prefill
from lens_audio.evals.runner import BatchRecords, Records, Runner
from lens_audio.inputs import AudioPrompt
from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.audio_silence.calibrate import (
    BETAS,
    KS,
    candidates,
    choose_setting,
    separations_of,
)
from lens_audio.steering.audio_silence.settings import ADAPTIVE, steps
from lens_audio.steering.audio_silence.silent_prefixes import Prefill, SilentPrefixes
from lens_audio.steering.knockout import random_heads

BASE, STEERED, RANDOM, FIXED, SILENCED = "base", "steered", "random", "fixed", "silenced"
RUNS = (BASE, STEERED, RANDOM, FIXED, SILENCED)
NEED_STEERING = (STEERED, RANDOM, FIXED)
ANSWER_BY = ("generation", "log-probability")
DIGITS = 6  # of recorded numbers: enough to use, few enough to hide the noise of float sums


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


@dataclass(frozen=True)
class Settings:
    """How a benchmark is run. All of it is part of what a run is."""

    wording: Wording
    runs: tuple[str, ...] = RUNS
    calibration_share: float = 0.3
    seed: int = 0  # of the split, the permutations and the random heads
    answer_by: str = "generation"
    max_new_tokens: int = 32
    ks: tuple[int, ...] = KS
    betas: tuple[float, ...] = BETAS
    adaptive: str = "constant"
    n_permutations: int = 2000
    draws: int = 3  # sets of random heads, each a run
    batch_size: int = 8
    max_seconds: float | None = None  # of a recording; None is what the model hears

    def __post_init__(self) -> None:
        unknown = [run for run in self.runs if run not in RUNS]
        if unknown or BASE not in self.runs or len(set(self.runs)) < len(self.runs):
            raise ValueError(
                f"runs must be {BASE} and others of {', '.join(RUNS)}, each once; not "
                f"{', '.join(self.runs)}"
            )
        for name, value, possible in (
            ("answer_by", self.answer_by, ANSWER_BY),
            ("adaptive", self.adaptive, ADAPTIVE),
        ):
            if value not in possible:
                raise ValueError(f"{name} must be one of {possible}, not {value!r}")
        if not 0 < self.calibration_share < 1:
            raise ValueError(
                f"calibration_share must lie between 0 and 1, not {self.calibration_share}"
            )
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"give at least one k, all above 0; not {self.ks}")
        if not self.betas or not all(0 < beta < math.inf for beta in self.betas):
            raise ValueError(f"give at least one beta, all above 0 and finite; not {self.betas}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, not {self.max_seconds}")

    @property
    def steers(self) -> bool:
        """Whether any run needs steering."""
        return any(run in NEED_STEERING for run in self.runs)

    def fitting(self, steering: AudioSilenceSteering | None, n_heads: int) -> "Settings":
        """These settings for a model of so many heads, and steering that is given.

        Given steering has no calibration items, whose mean a fixed direction is: where all runs are
        asked for, that one is left out.

        Raises:
            ValueError: for runs that cannot be made with it, or more heads than there are.
        """
        runs = self.runs
        if steering is not None:
            if runs == RUNS:
                runs = tuple(run for run in RUNS if run != FIXED)
            if FIXED in runs:
                raise ValueError(
                    "the fixed run's direction is the calibration items' mean, and given steering "
                    "has none: leave out the run 'fixed'"
                )
            if RANDOM in runs and steering.direction is not None:
                raise ValueError(
                    "steering by a fixed direction does not depend on its heads, so random heads "
                    "are no control of it: leave out the run 'random'"
                )
        most = len(steering.heads) if steering is not None else max(self.ks)
        needed = 2 * most if RANDOM in runs else most
        if self.steers and needed > n_heads:
            raise ValueError(
                f"{most} specialists{' and as many random heads' if RANDOM in runs else ''} of a "
                f"model that has {n_heads} heads; give a smaller k"
            )
        return replace(self, runs=runs)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The steering of a run, and what it was chosen from."""

    steering: AudioSilenceSteering
    fixed: AudioSilenceSteering | None  # the calibration items' mean s instead of the item's own
    correlation: Correlation | None = None  # None for steering that was given
    table: pd.DataFrame | None = None  # k, auroc, beta, n, accuracy, change, chosen


class SteeringProtocol:
    """One model on one benchmark, in phases that a runner records and resumes.

    `calibrate` needs the answers of the items; `answer` does not.
    """

    def __init__(
        self,
        model: HookedAudioTransformer,
        dataset: AudioQADataset,
        settings: Settings,
        runner: Runner,
    ) -> None:
        self.model, self.dataset = model, dataset
        self.settings, self.runner = settings, runner
        self.prefixes = SilentPrefixes()

    def calibrate(self, items: Sequence[AudioQAItem]) -> Chosen:
        """Find the specialists, then k and beta, on these items.

        Raises:
            ValueError: for too few items that could be read, or all answered right, or all wrong.
        """
        settings = self.settings
        records = _answered(self.runner.run("listening", items, self._listen).items, items)
        mass = torch.tensor([record["mass"] for record in records], dtype=torch.float64)
        plain = torch.tensor([record["correct"] for record in records], dtype=torch.bool)
        found = correlate(mass, plain, settings.n_permutations, settings.seed)
        data = {"what": self.dataset.name, "n_items": len(records), "seed": settings.seed}
        every = candidates(self.model, found, settings.ks, settings.betas, settings.adaptive, data)
        tried = {setting: steering for setting, steering in every.items() if steering.beta}
        outcome = self.runner.run("strength", items, partial(self._try, tried))
        tested = {record["id"]: record["correct"] for record in _answered(outcome.items, items)}
        both = [row for row, record in enumerate(records) if record["id"] in tested]
        mass, plain = mass[both], plain[both]
        bits = torch.tensor([tested[records[row]["id"]] for row in both], dtype=torch.bool)
        correct = {(k, 0.0): plain for k in settings.ks}
        correct |= {setting: bits[:, i] for i, setting in enumerate(tried)}
        everyone = {"all": torch.ones(len(plain), dtype=torch.bool)}
        separations = separations_of(mass, plain, found, settings.ks)
        table, k, beta = choose_setting(correct, plain, everyone, separations, max_cost=0.0)
        steering = every[k, beta]
        mean = torch.from_numpy(outcome.sums[f"k={k}"] / len(tested))
        return Chosen(steering, replace(steering, direction=mean), found, table)

    def answer(self, items: Sequence[AudioQAItem], chosen: Chosen | None) -> Records:
        """A record for each item, in order: every run's answer, or why it could not be asked."""
        steerings = self.steerings(chosen)
        outcome = self.runner.run("answers", items, partial(self._answer, steerings))
        return _in_order(outcome.items, items)

    def steerings(self, chosen: Chosen | None) -> dict[str, AudioSilenceSteering]:
        """The steering of each run that has one; random heads are drawn several times."""
        if chosen is None:
            return {}
        cfg, heads = self.model.cfg, chosen.steering.heads
        found: dict[str, AudioSilenceSteering] = {}
        for run in self.settings.runs:
            if run == STEERED:
                found[run] = chosen.steering
            elif run == FIXED:
                if chosen.fixed is None:
                    raise ValueError(
                        "the fixed direction is the calibration items'; none were read"
                    )
                found[run] = chosen.fixed
            elif run == RANDOM:
                draws = random_heads(
                    cfg.n_layers, cfg.n_heads, len(heads), self.settings.draws,
                    self.settings.seed, heads,
                )  # fmt: skip
                for number, drawn in enumerate(draws, 1):
                    found[f"{run} {number}"] = replace(chosen.steering, heads=tuple(drawn))
        return found

    def _listen(self, prompt: AudioPrompt, items: list[AudioQAItem]) -> BatchRecords:
        """Mass and correctness of a calibration batch."""
        found = prefill(self.model, prompt, [], self.prefixes)
        answers = self._answers(found.prefill, torch.zeros_like(found.prefill.final)[None], items)[
            0
        ]
        return BatchRecords(
            [
                {"id": item.id, **answer, "mass": rounded(mass.tolist())}
                for item, answer, mass in zip(items, answers, found.mass, strict=True)
            ]
        )

    def _try(
        self,
        tried: dict[tuple[int, float], AudioSilenceSteering],
        prompt: AudioPrompt,
        items: list[AudioQAItem],
    ) -> BatchRecords:
        """Correctness of a calibration batch under every setting, and the sum of each k's s."""
        found = prefill(self.model, prompt, _layers(tried.values()), self.prefixes)
        added = torch.stack([self._added(steering, found) for steering in tried.values()])
        answers = self._answers(found.prefill, added, items)
        of_each_k = {f"k={k}": steering for (k, _), steering in tried.items()}
        sums = {
            name: found.direction(steering.layers).float().sum(0).cpu().numpy()
            for name, steering in of_each_k.items()
        }
        records = [
            {"id": item.id, "correct": [int(run[row]["correct"]) for run in answers]}
            for row, item in enumerate(items)
        ]
        return BatchRecords(records, sums)

    def _answer(
        self,
        steerings: dict[str, AudioSilenceSteering],
        prompt: AudioPrompt,
        items: list[AudioQAItem],
    ) -> BatchRecords:
        """Every run's answers to a batch."""
        silenced = SILENCED in self.settings.runs
        found = prefill(self.model, prompt, _layers(steerings.values()), self.prefixes, silenced)
        nothing = torch.zeros_like(found.prefill.final)
        added = [nothing, *(self._added(steering, found) for steering in steerings.values())]
        answers = dict(
            zip(
                [BASE, *steerings], self._answers(found.prefill, torch.stack(added), items),
                strict=True,
            )
        )  # fmt: skip
        if found.silent_prefill is not None:
            answers[SILENCED] = self._answers(found.silent_prefill, nothing[None], items)[0]
        records = []
        for row, item in enumerate(items):
            record: dict[str, Any] = {"id": item.id}
            if STEERED in steerings:
                steering = steerings[STEERED]
                score = listening_score(found.mass[row], steering.heads)
                norm = found.direction(steering.layers)[row].norm()
                record |= {"listening_score": rounded(score), "direction_norm": rounded(norm)}
            assert prompt.texts is not None
            record["prompt"] = prompt.texts[row]
            record["runs"] = {run: said[row] for run, said in answers.items()}
            records.append(record)
        return BatchRecords(records)

    def _added(
        self, steering: AudioSilenceSteering, found: Prefilled
    ) -> Float[Tensor, "row d_model"]:
        """What this steering adds to each row's final representation."""
        s, final = found.direction(steering.layers), found.prefill.final
        if steering.direction is not None:
            s = steering.direction.to(final).expand(len(final), -1)
        score = listening_score(found.mass, steering.heads)
        model = self.model
        return steps(steering, s, score, lambda: model.logits_of(final[:, None])[:, 0])

    def _answers(
        self, state: Prefill, added: Float[Tensor, "run row d_model"], items: list[AudioQAItem]
    ) -> list[list[dict[str, Any]]]:
        """Each run's answer to each row: text, prediction, correct where the answer is known."""
        if self.settings.answer_by == "generation":
            texts = generate(self.model, state, added, self.settings.max_new_tokens, is_closed)
            return [
                [self._judged(*of, extract(of[1])) for of in zip(items, run, strict=True)]
                for run in texts
            ]
        wording, encode = self.settings.wording, self.model.required_tokenizer.encode
        choices = [list(dict.fromkeys(item.choices)) for item in items]
        options = [
            [encode(wording.answer(choice), add_special_tokens=False) for choice in row]
            for row in choices
        ]
        scores = option_log_probs(self.model, state, added, options)
        return [[self._best(*of) for of in zip(items, choices, run, strict=True)] for run in scores]

    def _best(self, item: AudioQAItem, choices: list[str], scores: list[float]) -> dict[str, Any]:
        best = choices[int(np.argmax(scores))]
        log_probs = dict(zip(choices, rounded(scores), strict=True))
        return {**self._judged(item, best, best), "log_probs": log_probs}

    def _judged(self, item: AudioQAItem, text: str, prediction: str) -> dict[str, Any]:
        judged: dict[str, Any] = {"text": text, "prediction": prediction}
        if item.answer is not None:
            judged["correct"] = bool(self.dataset.matches(prediction, item.answer, item.choices))
        return judged


def _layers(steerings: Any) -> list[int]:
    return sorted({layer for steering in steerings for layer in steering.layers})


def _in_order(records: Records, items: Sequence[AudioQAItem]) -> Records:
    by_id = {record["id"]: record for record in records}
    return [by_id[item.id] for item in items]


def _answered(records: Records, items: Sequence[AudioQAItem]) -> Records:
    """Those of items that could be asked, in order."""
    return [record for record in _in_order(records, items) if "failed" not in record]


def rounded(value: Any) -> Any:
    """A number, or nested lists of them, with `DIGITS` significant digits."""
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{float(value):.{DIGITS}g}")
