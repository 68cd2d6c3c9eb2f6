"""Does the listening score hold when the recording is perturbed, and does the answer?

White noise at given signal-to-noise ratios; an attack that moves the score or the answer and not the
other (`analysis.perturbation` has its formula); and, beside it, white noise of each attack's size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.analysis.corruptions import add_noise
from lens_audio.analysis.listening import Head, check_heads
from lens_audio.analysis.perturbation import (
    Signals,
    Waveforms,
    attack,
    check_attack,
    check_levels,
    random_like,
    signals,
)
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import first_tokens
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.inputs import AudioPrompt
from lens_audio.inputs.log_mel import original_waveforms, with_waveforms
from lens_audio.stats import mean_intervals, wilson

UNPERTURBED, NOISE, RANDOM = "unperturbed", "white noise", "random of the attack's size"
SAME_SCORE = 0.25  # a score that has moved by a smaller share of itself has stayed


class ScoreAndAnswer(NamedTuple):
    """What each item gives under one perturbation."""

    score: Float[Tensor, " item"]  # listening score, 0 to 1
    logit_diff: Float[Tensor, " item"]  # logit of the right choice - mean of the others'
    choice: Int[Tensor, " item"]  # number of the choice with the highest logit


@dataclass(frozen=True, eq=False, repr=False)
class Robustness:
    """Every item's reading without a perturbation, and with each of a kind and level in decibels."""

    heads: list[Head]
    target: str  # of the attack
    item_ids: list[str]
    right: Int[Tensor, " item"]  # number of the right choice
    unperturbed: ScoreAndAnswer
    perturbed: dict[
        tuple[str, float], ScoreAndAnswer
    ]  # by what it is, and decibels below the signal
    seed: int

    def __repr__(self) -> str:
        levels = ", ".join(f"{what} {level:g} dB" for what, level in self.perturbed)
        return f"Robustness({len(self.item_ids)} items, {len(self.heads)} heads; {levels})"

    def reached(self, reading: ScoreAndAnswer) -> Bool[Tensor, " item"]:
        """Whether the target alone moved: the score fell by a quarter of itself or more and the answer
        is the same, or the answer is another and the score less than a quarter from what it was."""
        kept = reading.choice == self.unperturbed.choice
        change = reading.score - self.unperturbed.score
        allowed = SAME_SCORE * self.unperturbed.score
        return (
            kept & (change <= -allowed)
            if self.target == "score"
            else ~kept & (change.abs() < allowed)
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a kind and level of perturbation; the first is unperturbed, at infinite decibels.

        `what`, `level_db`, `n` items, and each with `_low` and `_high` of its 95 % interval over
        items: `score`, its mean change from the unperturbed `score_change`, `logit_diff` (bootstrap);
        shares `accuracy` of right answers, `kept` of unchanged answers, and `reached`, of items of
        which the attack's target alone moved (Wilson).
        """
        readings = {(UNPERTURBED, float("inf")): self.unperturbed, **self.perturbed}
        first = self.unperturbed
        means = torch.stack(
            [
                torch.stack([reading.score, reading.score - first.score, reading.logit_diff])
                for reading in readings.values()
            ]
        ).double()  # [reading, number, item]
        lows, highs = mean_intervals(means, seed=self.seed)
        names = ("score", "score_change", "logit_diff")
        rows = []
        for number, ((what, level), reading) in enumerate(readings.items()):
            row: dict[str, Any] = {"what": what, "level_db": level, "n": len(self.item_ids)}
            for place, name in enumerate(names):
                row[name] = float(means[number, place].mean())
                row[f"{name}_low"] = float(lows[number, place])
                row[f"{name}_high"] = float(highs[number, place])
            shares = {
                "accuracy": reading.choice == self.right,
                "kept": reading.choice == first.choice,
                "reached": self.reached(reading),
            }
            for name, is_so in shares.items():
                share = wilson(is_so)
                row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> Any:
        """Score, unchanged and right answers against decibels below the signal, with intervals."""
        from lens_audio.plots.robustness import robustness_curve

        return robustness_curve(self.to_dataframe())


def measure(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    heads: Sequence[Head],
    *,
    noise_db: Sequence[float | int] = (),
    attack_db: Sequence[float | int] = (),
    target: str = "score",
    steps: int = 20,
    penalty: float | int | None = None,
    margin: float | int = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    verbose: bool = True,
) -> Robustness:
    """Listening score and answer of every item under white noise, the attack, and its control.

    An item's answer is the choice whose first token has the highest logit. The same seed and batch
    size give the same perturbations, and every level scales the same noise.

    Args:
        items: whose question names the choices, such as the testbed's; of two different first tokens.
        heads: of the listening score, such as `found.heads` of `find_specialists`.
        noise_db: signal-to-noise ratios of the white noise.
        attack_db: how far below the signal the attack stays; its control has the attack's RMS.
        target: what the attack moves, "score" (down) or "answer", while the other stays.
        steps, penalty, margin: as in `perturbation.attack`.

    Raises:
        ValueError: for no levels or one that is not finite, another target, fewer than two items,
            items without a recording or an answer, heads that do not exist, hooks on the model, or a
            silent clip.
    """
    model.check_no_hooks()
    check_items(items, least=2, needs=("audio", "answer"))
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
    check_levels([*noise_db, *attack_db])
    check_attack(target, steps, penalty, margin)
    if not noise_db and not attack_db:
        raise ValueError("no levels were given: name decibels in noise_db, attack_db or both")
    kinds = [(UNPERTURBED, float("inf")), *((NOISE, float(level)) for level in noise_db)]
    for level in attack_db:
        kinds += [(attack_on(target), float(level)), (RANDOM, float(level))]
    found: dict[tuple[str, float], list[ScoreAndAnswer]] = {kind: [] for kind in kinds}
    options: dict[str, Any] = {"steps": steps, "penalty": penalty, "margin": margin}
    for number, (batch, prompt) in enumerate(
        batches(model, items, batch_size, verbose, "robustness")
    ):
        tokens, right = first_tokens(model, batch), _right(batch)
        attacked = partial(attack, model, prompt, heads, tokens, target=target, **options)
        versions = _versions(prompt, noise_db, attack_db, attacked, [seed, number])
        for kind, version in zip(kinds, versions, strict=True):
            with torch.no_grad():
                found[kind].append(_reading(signals(model, version, heads, tokens), right))
    joined = {
        kind: ScoreAndAnswer(*map(torch.cat, zip(*parts, strict=True)))
        for kind, parts in found.items()
    }
    return Robustness(
        heads=list(heads),
        target=target,
        item_ids=[item.id for item in items],
        right=_right(items),
        unperturbed=joined.pop((UNPERTURBED, float("inf"))),
        perturbed=joined,
        seed=seed,
    )


def attack_on(target: str) -> str:
    """What results call the attack."""
    return f"attack on the {target}"


def _versions(
    prompt: AudioPrompt,
    noise_db: Sequence[float | int],
    attack_db: Sequence[float | int],
    attacked: Callable[[float | int], Waveforms],
    seed: list[int],
) -> Iterator[AudioPrompt]:
    """The batch unperturbed, under noise at each level, and at each under attack and its control."""
    yield prompt
    noise_seed, control_seed = (int(n) for n in np.random.SeedSequence(seed).generate_state(2))
    for level in noise_db:
        yield add_noise(prompt, float(level), noise_seed)
    waves = original_waveforms(prompt)
    for level in attack_db:
        moved = attacked(level)
        for deltas in (moved, random_like(moved, control_seed)):
            heard = [wave + delta for wave, delta in zip(waves, deltas, strict=True)]
            yield with_waveforms(prompt, heard)


def _right(items: Sequence[AudioQAItem]) -> Int[Tensor, " item"]:
    return torch.tensor([item.answer_index for item in items])


def _reading(found: Signals, right: Int[Tensor, " item"]) -> ScoreAndAnswer:
    score, logits = (values.float().cpu() for values in found)
    own = logits.gather(1, right[:, None])[:, 0]
    is_other = logits.isfinite().scatter(1, right[:, None], False)
    others = logits.masked_fill(~is_other, 0.0).sum(1) / is_other.sum(1)
    return ScoreAndAnswer(score, own - others, logits.argmax(1))
