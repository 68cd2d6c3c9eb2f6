"""The paper's protocol on a benchmark: calibrate on one split, answer the other in every run.

Glazer, Aharon, Fetaya, arXiv 2603.06854. On the calibration split the heads whose attention on the
audio goes with right answers are found, then the number k of them and the strength beta by answering
under every setting. On the other items the model answers as it is and under each control.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch

from lens_audio.analysis.listening import Correlation, correlate
from lens_audio.config import AudioModelConfig
from lens_audio.data.items import AudioQAItem
from lens_audio.data.wording import Wording
from lens_audio.evals.asking import Asker, Asking, rounded
from lens_audio.evals.records import in_order
from lens_audio.evals.runner import BatchRecords, Records, Runner
from lens_audio.evals.runs import BASE, Run, silenced
from lens_audio.inputs import AudioPrompt
from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.audio_silence.calibrate import (
    BETAS,
    KS,
    candidates,
    choose_setting,
    separations_of,
)
from lens_audio.steering.audio_silence.settings import ADAPTIVE
from lens_audio.steering.knockout import random_heads

STEERED, RANDOM, FIXED, SILENCED = "steered", "random", "fixed", "silenced"
RUNS = (BASE, STEERED, RANDOM, FIXED, SILENCED)
NEED_STEERING = (STEERED, RANDOM, FIXED)


@dataclass(frozen=True)
class Settings(Asking):
    """How a benchmark is run. All of it is part of what a run is."""

    wording: Wording
    runs: tuple[str, ...] = RUNS
    calibration_share: float = 0.3
    seed: int = 0  # of the split, the permutations and the random heads
    ks: tuple[int, ...] = KS
    betas: tuple[float, ...] = BETAS
    adaptive: str = "constant"
    n_permutations: int = 2000
    draws: int = 3  # sets of random heads, each a run

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [run for run in self.runs if run not in RUNS]
        if unknown or BASE not in self.runs or len(set(self.runs)) < len(self.runs):
            raise ValueError(
                f"runs must be {BASE} and others of {', '.join(RUNS)}, each once; not "
                f"{', '.join(self.runs)}"
            )
        if self.adaptive not in ADAPTIVE:
            raise ValueError(f"adaptive must be one of {ADAPTIVE}, not {self.adaptive!r}")
        if not 0 < self.calibration_share < 1:
            raise ValueError(
                f"calibration_share must lie between 0 and 1, not {self.calibration_share}"
            )
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"give at least one k, all above 0; not {self.ks}")
        if not self.betas or not all(0 < beta < math.inf for beta in self.betas):
            raise ValueError(f"give at least one beta, all above 0 and finite; not {self.betas}")

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


@dataclass(frozen=True, eq=False)
class Chosen:
    """The steering of a run, and what it was chosen from."""

    steering: AudioSilenceSteering
    fixed: AudioSilenceSteering | None  # the calibration items' mean s instead of the item's own
    correlation: Correlation | None = None  # None for steering that was given
    table: pd.DataFrame | None = None  # k, auroc, beta, n, accuracy, change, chosen


def calibrate(
    asker: Asker, runner: Runner, settings: Settings, items: Sequence[AudioQAItem]
) -> Chosen:
    """Find the specialists, then k and beta, on these items, whose answers are known.

    Raises:
        ValueError: for too few items that could be read, or all answered right, or all wrong.
    """
    records = _answered(runner.run("listening", items, partial(_listen, asker)).items, items)
    mass = torch.tensor([record["mass"] for record in records], dtype=torch.float64)
    plain = torch.tensor([record["correct"] for record in records], dtype=torch.bool)
    found = correlate(mass, plain, settings.n_permutations, settings.seed)
    data = {"what": asker.dataset.name, "n_items": len(records), "seed": settings.seed}
    every = candidates(asker.model, found, settings.ks, settings.betas, settings.adaptive, data)
    tried = {setting: steering for setting, steering in every.items() if steering.beta}
    outcome = runner.run("strength", items, partial(_try, asker, tried))
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


def runs_of(settings: Settings, chosen: Chosen | None, cfg: AudioModelConfig) -> dict[str, Run]:
    """The runs that items are answered in.

    Raises:
        ValueError: for a fixed direction where none was found.
    """
    runs: dict[str, Run] = {BASE: None}
    if chosen is not None:
        runs |= _steerings(settings, chosen, cfg)
    if SILENCED in settings.runs:
        runs[SILENCED] = silenced
    return runs


def _steerings(
    settings: Settings, chosen: Chosen, cfg: AudioModelConfig
) -> dict[str, AudioSilenceSteering]:
    """The steering of each run that has one; random heads are drawn several times."""
    steering, found = chosen.steering, dict[str, AudioSilenceSteering]()
    for run in settings.runs:
        if run == STEERED:
            found[run] = steering
        elif run == FIXED:
            if chosen.fixed is None:
                raise ValueError("the fixed direction is the calibration items'; none were read")
            found[run] = chosen.fixed
        elif run == RANDOM:
            heads, k = steering.heads, len(steering.heads)
            draws = random_heads(cfg.n_layers, cfg.n_heads, k, settings.draws, settings.seed, heads)
            for number, drawn in enumerate(draws, 1):
                found[f"{run} {number}"] = replace(steering, heads=tuple(drawn))
    return found


def _listen(asker: Asker, prompt: AudioPrompt, items: list[AudioQAItem]) -> BatchRecords:
    """Mass and correctness of a calibration batch."""
    found, answers = asker.answers({BASE: None}, prompt, items)
    return BatchRecords(
        [
            {"id": item.id, **answer, "mass": rounded(mass.tolist())}
            for item, answer, mass in zip(items, answers[BASE], found.mass, strict=True)
        ]
    )


def _try(
    asker: Asker,
    tried: dict[tuple[int, float], AudioSilenceSteering],
    prompt: AudioPrompt,
    items: list[AudioQAItem],
) -> BatchRecords:
    """Correctness of a calibration batch under every setting, and the sum of each k's s."""
    runs = {f"k={k}, beta={beta}": steering for (k, beta), steering in tried.items()}
    found, answers = asker.answers(runs, prompt, items)
    of_each_k = {f"k={k}": steering for (k, _), steering in tried.items()}
    sums = {
        name: found.direction(steering.layers).float().sum(0).cpu().numpy()
        for name, steering in of_each_k.items()
    }
    records = [
        {"id": item.id, "correct": [int(run[row]["correct"]) for run in answers.values()]}
        for row, item in enumerate(items)
    ]
    return BatchRecords(records, sums)


def _answered(records: Records, items: Sequence[AudioQAItem]) -> Records:
    """Those of items that could be asked, in order."""
    return [record for record in in_order(records, items) if "failed" not in record]
