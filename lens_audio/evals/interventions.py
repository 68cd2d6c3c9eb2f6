"""Which intervention? All of them on a checkpoint, tuned alike on some items and judged on others.

Each intervention has a strength. The one of highest mean accuracy over the conditions is taken, among
those that cost no condition more than two points on the calibration items: the rule by which
audio-silence steering chooses its beta. On other clips every intervention answers beside its random
controls. What it gains is accuracy in conflict; what it costs, accuracy elsewhere and time.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from lens_audio import hooks
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.wording import wording
from lens_audio.evals.asking import Asking
from lens_audio.evals.benchmarks.scenes import CAPTION, TRAINED, SceneQA
from lens_audio.evals.results import Results
from lens_audio.evals.run import evaluate
from lens_audio.evals.runs import BASE, Run, under, with_controls
from lens_audio.inputs import AudioPrompt
from lens_audio.plots.theme import points
from lens_audio.sites import Head
from lens_audio.stats import Interval, median_ratio, paired_difference, said_over, wilson
from lens_audio.steering import contrastive, mean_difference
from lens_audio.steering.audio_silence.adaptive import at_equal_strength, compare_adaptive
from lens_audio.steering.audio_silence.calibrate import BETAS, Calibration, best_strength, calibrate
from lens_audio.steering.audio_silence.item_activations import item_activations
from lens_audio.steering.knockout import random_heads
from lens_audio.testbed.scenes import SceneKind

MAX_COST = 0.02  # of accuracy in any condition, on the calibration items
ABOVE_CHANCE = 0.1  # a kind of question that is answered less well is left out
ALPHAS = (0.5, 1.0, 2.0, 4.0)
FACTORS = (2.0, 4.0, 8.0)
COEFFICIENTS = (1.0, 2.0, 4.0)
STRENGTHS = (0.5, 1.0, 2.0, 4.0)  # at which adaptive steering is compared with constant
CONFLICT = "conflict"
NOTHING = 0.0  # the strength of no intervention


@dataclass(frozen=True)
class Intervention:
    """An intervention at any strength above 0; a run that is `Controlled` has random controls."""

    name: str
    strengths: tuple[float, ...]
    run: Callable[[float], Run]


@dataclass(frozen=True)
class ScaledAttention:
    """More of the last position's attention to the audio, in some heads or in all (None)."""

    heads: Sequence[Head] | None
    factor: float

    def attach(self, model: HookedAudioTransformer) -> AbstractContextManager[Any]:
        """Inside, every run of the model is changed."""
        scaled = hooks.scale_attention(
            keys="audio", queries="last", factor=self.factor, heads=self.heads
        )
        return model.hooks(fwd_hooks=scaled)

    def random_control(self, model: HookedAudioTransformer, seed: int) -> "ScaledAttention | None":
        """The same in as many random heads, none of its own; None where it is of all heads."""
        if self.heads is None:
            return None
        cfg, k = model.cfg, len(self.heads)
        (drawn,) = random_heads(cfg.n_layers, cfg.n_heads, k, 1, seed, self.heads)
        return replace(self, heads=drawn)


@dataclass(frozen=True, eq=False)
class InterventionComparison:
    """Every intervention on one checkpoint.

    `table` has a row a run (columns run, intervention, strength, is_control, time, time_low, time_high,
    and of each condition CONDITION, CONDITION_low, CONDITION_high, the change in accuracy);
    `tuning` the accuracies that strengths were chosen by; `kinds` is of `kinds_above_chance`; `adaptive` of
    `compare_adaptive`, on the test clips.
    """

    checkpoint: str
    table: pd.DataFrame
    tuning: pd.DataFrame
    kinds: pd.DataFrame
    adaptive: pd.DataFrame
    results: Results
    calibration: Calibration

    @property
    def conditions(self) -> list[str]:
        """In the order of the items."""
        return list(dict.fromkeys(item.condition for item in self.results.items))

    @property
    def findings(self) -> list[str]:
        """What the table says, in sentences; a control that does as well comes first."""
        return [*self._controls_that_do_as_well(), *self._leads()]

    def in_conflict(self, run: str) -> torch.Tensor:
        """Which conflict items a run answers right."""
        assert self.results.correct is not None
        members = [item.condition == CONFLICT for item in self.results.items]
        return self.results.correct[run][torch.tensor(members)]

    def lead(self, run: str, others: Sequence[str]) -> Interval:
        """By how much a run is right more often in conflict than others on average, paired."""
        return paired_difference(
            self.in_conflict(run), torch.stack([self.in_conflict(other) for other in others])
        )

    def _controls_that_do_as_well(self) -> list[str]:
        said = []
        for run, names in self.results.controls.items():
            lead = self.lead(run, names)
            if lead.low <= 0:
                said.append(
                    f"{self.checkpoint}: {run} does not lead its random controls in conflict: "
                    f"{points(*lead[:3])} points{said_over(lead.over)}."
                )
        return said

    def _leads(self) -> list[str]:
        ours = self.table[~self.table["is_control"]].sort_values(CONFLICT, ascending=False)
        if not len(ours):
            return [f"{self.checkpoint}: no intervention helped within its cost."]
        best, *others = ours["run"]
        row = ours.iloc[0]
        gain = points(*(row[f"{CONFLICT}{end}"] for end in ("", "_low", "_high")))
        said = f"{self.checkpoint}: {best} gains most in conflict, {gain} points"
        if others:
            lead = self.lead(best, others[:1])
            beats = "leads" if lead.low > 0 else "does not lead"
            said += f", and {beats} the next, {others[0]}: {points(*lead[:3])} points"
        return [f"{said}."]


def compare_interventions(
    model: HookedAudioTransformer,
    checkpoint: str,
    folder: str | os.PathLike[str],
    *,
    n_calibration: int = 60,
    n_test: int = 60,
    draws: int = 3,
    seed: int = 700,
    interventions: Mapping[str, Callable[[Calibration], Intervention]] | None = None,
    verbose: bool = True,
) -> InterventionComparison:
    """Tune every intervention on some clips and judge it on others; resumable.

    Args:
        checkpoint: what results call the model.
        folder: where the journals of both parts go.
        n_calibration, n_test: clips of each kind of question; each is asked under every caption.
        draws: random controls of each intervention that has any.
        seed: of the calibration clips and everything random; the test clips have the next.
        interventions: of one's own, made from what was calibrated; by default all that there are.

    Raises:
        ValueError: where no kind of question is answered above chance, or nothing can be calibrated.
    """
    folder = Path(folder)
    kinds = kinds_above_chance(model, n_calibration, seed, folder / "kinds", verbose)
    asked: list[SceneKind] = list(kinds.loc[kinds["asked"], "kind"])
    if not asked:
        raise ValueError(f"{checkpoint} answers no kind of question above chance")
    tune_on, judge_on = (
        SceneQA.make(n, at, asked) for n, at in ((n_calibration, seed), (n_test, seed + 1))
    )
    calibration = calibrate(
        model, tune_on.items, specialists_from=CONFLICT, seed=seed, verbose=verbose
    )
    made = [make(calibration) for make in (interventions or interventions_of(model, seed)).values()]
    asking = Asking(wording=wording(tune_on.prompt), answer_by="log-probability", seed=seed)
    common: dict[str, Any] = {"workers": 0, "verbose": verbose}
    tried = {
        name_of(intervention, strength): intervention.run(strength)
        for intervention in made
        for strength in intervention.strengths
    }
    tuned, _ = evaluate(
        model, tune_on, folder / "calibration", asking, runs=tried, controls=0, **common
    )
    strengths = {intervention.name: chosen_strength(intervention, tuned) for intervention in made}
    chosen = {
        one.name: one.run(strengths[one.name]) for one in made if strengths[one.name] != NOTHING
    }
    results, _ = evaluate(
        model, judge_on, folder / "test", asking, runs=chosen, controls=draws, **common
    )
    prompt = model.prompt(judge_on.items[0].question, audio=judge_on.items[0].audio)
    runs, _ = with_controls({BASE: None, **chosen}, model, draws, seed)
    times = time_per_token(model, runs, prompt)
    table = _table(results, strengths, times)
    tuning = pd.DataFrame(_tuning(made, tuned, strengths))
    read = item_activations(model, judge_on.items, verbose=verbose, what="adaptive strength")
    adaptive = compare_adaptive(
        model, calibration.steering, calibration.activations, read, STRENGTHS, seed
    )
    return InterventionComparison(checkpoint, table, tuning, kinds, adaptive, results, calibration)


def interventions_of(
    model: HookedAudioTransformer, seed: int
) -> dict[str, Callable[[Calibration], Intervention]]:
    """Every intervention that there is, from what was calibrated."""

    def vector(found: Calibration) -> Intervention:
        prompts = [
            model.prompt(item.question, audio=item.audio) for item in found.activations.items
        ]
        layer = max(found.steering.layers)
        direction = mean_difference(
            model,
            prompts,
            [p.silenced() for p in prompts],
            layers=[layer],
            data="calibration items",
        )
        return Intervention("steering vector", COEFFICIENTS, direction.scaled)

    def silence(name: str, adaptive: str) -> Callable[[Calibration], Intervention]:
        return lambda found: Intervention(
            name, BETAS, partial(at_equal_strength, found.steering, found.activations, adaptive)
        )

    def contrast(name: str, sign: int = 1, **against: Any) -> Callable[[Calibration], Intervention]:
        return lambda found: Intervention(
            name, ALPHAS, lambda strength: contrastive(sign * strength, **against)
        )

    return {
        "steered": silence("audio-silence steering", "constant"),
        "by listening": silence("same, by listening score", "listening"),
        "by confidence": silence("same, by confidence", "confidence"),
        "fixed": lambda found: Intervention("fixed direction", BETAS, found.fixed.with_beta),
        "vector": vector,
        "silence": contrast("contrastive, silence", against="silence"),
        "noise": contrast("contrastive, noise", against="noise", seed=seed),
        # Towards the prompt without its caption, and beyond.
        "caption": contrast("without its caption", -1, against="without_text", caption=CAPTION),
        "heads": lambda found: Intervention(
            "attention of specialists", FACTORS, partial(ScaledAttention, found.steering.heads)
        ),
        "audio": lambda found: Intervention(
            "attention to audio", FACTORS, partial(ScaledAttention, None)
        ),
    }


def kinds_above_chance(
    model: HookedAudioTransformer, n: int, seed: int, folder: Path, verbose: bool
) -> pd.DataFrame:
    """How well each kind of question is answered without a caption.

    Returns:
        Columns kind, n, accuracy, low, high (Wilson), chance, trained, asked: those that the checkpoints
        were trained on, where they are answered ten points above chance.
    """
    kinds: tuple[SceneKind, ...] = get_args(SceneKind)
    every = SceneQA.make(n, seed, kinds)
    items = [item for item in every.items if item.condition == "captionless"]
    asking = Asking(wording=wording(every.prompt), answer_by="log-probability", seed=seed)
    results, _ = evaluate(
        model, every, folder, asking, runs={}, items=items, workers=0, verbose=verbose
    )
    assert results.correct is not None
    rows = []
    for kind in kinds:
        members = [item.facts["kind"] == kind for item in items]
        chance = sum(1 / len(i.choices) for i in items if i.facts["kind"] == kind) / sum(members)
        right = wilson(results.correct[BASE][torch.tensor(members)])
        trained = kind in TRAINED
        asked = trained and right.value >= chance + ABOVE_CHANCE
        rows.append((kind, sum(members), *right[:3], chance, trained, asked))
    columns = ["kind", "n", "accuracy", "low", "high", "chance", "trained", "asked"]
    return pd.DataFrame(rows, columns=columns)


def chosen_strength(intervention: Intervention, tuned: Results) -> float:
    """The strength that the calibration items choose; 0 where doing nothing wins."""
    assert tuned.correct is not None
    names = dict.fromkeys(item.condition for item in tuned.items)
    members = {
        name: torch.tensor([item.condition == name for item in tuned.items]) for name in names
    }
    right = {s: tuned.correct[name_of(intervention, s)] for s in intervention.strengths}
    return best_strength({NOTHING: tuned.correct[BASE], **right}, members, MAX_COST)


def name_of(intervention: Intervention, strength: float) -> str:
    """What a run of this strength is called."""
    return f"{intervention.name} {strength:g}"


@torch.no_grad()
def time_per_token(
    model: HookedAudioTransformer,
    runs: Mapping[str, Run],
    prompt: AudioPrompt,
    n_tokens: int = 16,
    rounds: int = 5,
) -> dict[str, Interval]:
    """The time of a whole answer of so many tokens under each run, over that of the first run.

    All runs are timed in every round, one after another, so that a busy machine slows them alike.

    Returns:
        The median over the rounds, with an interval of that median.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            with under(run, model, prompt) as asked:
                start = time.perf_counter()
                model.generate(asked, n_tokens, stop_at_eos=False, verbose=False)
                seconds[name].append(time.perf_counter() - start)
    first = seconds[next(iter(runs))][1:]  # the first round warms up
    return {name: median_ratio(spent[1:], first) for name, spent in seconds.items()}


def _table(
    results: Results, strengths: Mapping[str, float], times: Mapping[str, Interval]
) -> pd.DataFrame:
    assert results.correct is not None
    drawn = {label: name for name, labels in results.controls.items() for label in labels}
    conditions = dict.fromkeys(item.condition for item in results.items)
    rows = []
    for run in results.runs[1:]:
        intervention = drawn.get(run, run)
        row: dict[str, Any] = {
            "run": run,
            "intervention": intervention,
            "strength": strengths[intervention],
            "is_control": run in drawn,
            **_named("time", times[run]),
        }
        for name in conditions:
            members = torch.tensor([item.condition == name for item in results.items])
            right, base = (results.correct[of][members] for of in (run, BASE))
            row |= _named(name, paired_difference(right, base))
        rows.append(row)
    return pd.DataFrame(rows)


def _tuning(
    made: Sequence[Intervention], tuned: Results, strengths: Mapping[str, float]
) -> list[dict[str, Any]]:
    assert tuned.accuracy is not None
    shares = tuned.accuracy[tuned.accuracy["group"] == "condition"]
    return [
        {
            "intervention": intervention.name,
            "strength": strength,
            "condition": row["value"],
            "n": row["n"],
            "accuracy": row["accuracy"],
            "chosen": strength == strengths[intervention.name],
        }
        for intervention in made
        for strength in intervention.strengths
        for row in shares[shares["run"] == name_of(intervention, strength)].to_dict("records")
    ]


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
