"""What calibrated steering is measured against, on other items."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.listening import Head, listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.stats import Interval, auroc, over_draws, paired_difference, wilson
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.steering.audio_silence.calibrate import Answers, Calibration, steered
from lens_audio.steering.audio_silence.contrastive import contrastive_answers
from lens_audio.steering.audio_silence.item_activations import ItemActivations, item_activations
from lens_audio.steering.audio_silence.steering_report import (
    AFTER,
    BEFORE,
    CONFLICT,
    CONTRASTIVE,
    FIXED,
    OURS,
    RANDOM,
    UNSTEERED,
    SteeringReport,
)
from lens_audio.steering.knockout import random_heads


@torch.no_grad()
def report(
    model: HookedAudioTransformer,
    calibration: Calibration,
    items: Sequence[AudioQAItem],
    *,
    n_draws: int = 20,
    n_text_only: int = 32,
    seed: int = 1,
    batch_size: int = 16,
    verbose: bool = True,
) -> SteeringReport:
    """Measure the calibrated steering on items it was not calibrated on, with all controls.

    Args:
        items: items (see `analysis.listening.measure`) of the test split.
        n_draws: how many sets of random heads there are of each kind, each with the strength that
            the rule which chose ours gives it on the calibration items.
        n_text_only: how many questions are asked without their audio, steered and not.

    Raises:
        ValueError: for items of the calibration split, no items, or too few heads to draw from.
    """
    check_test_items(items, calibration.ids)
    steering = calibration.steering
    draws = draw_controls(model, calibration, n_draws, seed)
    methods, betas = _methods(model, calibration, draws)
    found = item_activations(model, items, batch_size=batch_size, verbose=verbose, what="testing")
    correct = {name: _correct(found, some, betas[name]) for name, some in methods.items()}
    scores = listening_score(found.mass, steering.heads).cpu()
    by_audio = correct[UNSTEERED]
    none = torch.zeros(len(items), dtype=torch.bool)
    conflict = found.conditions.get(CONFLICT, none)
    silence_decides = found.chosen(model) == found.chosen_over_silence(model)
    texts = [replace(item, audio=None) for item in items[:n_text_only]]
    of_all = listening_score(found.mass, calibration.heads_of_all).cpu()
    return SteeringReport(
        steering=steering,
        table=table_of_methods(correct, betas, found.conditions, seed),
        curves=_curves(found, methods, calibration),
        layers=_single_layers(model, found, calibration),
        scores=scores,
        by_audio=by_audio,
        conflict=conflict,
        auroc_conflict=_auroc_conflict(scores, by_audio, conflict, seed),
        auroc_of_all=_auroc_conflict(of_all, by_audio, conflict, seed),
        auroc_all=auroc(scores, ~silence_decides.cpu(), seed=seed),
        baselines=baselines_of(found, by_audio, conflict, seed),
        text_only_changed=count_changed(model, texts, (steering, calibration.fixed), batch_size),
        n_text_only=len(texts),
        test_ids=found.ids,
        draws=draws | {rule: [heads] for rule, heads in calibration.other_heads.items()},
        betas=betas,
    )


def check_test_items(items: Sequence[AudioQAItem], calibrated_on: Sequence[str]) -> None:
    """Refuse items of the calibration split, given by their ids, and none.

    Raises:
        ValueError: naming one.
    """
    check_items(items, needs=("answer",))
    seen = sorted(set(calibrated_on).intersection(item.id for item in items))
    if seen:
        raise ValueError(f"{len(seen)} test items were calibrated on, such as {seen[0]!r}")


def draw_controls(
    model: HookedAudioTransformer, calibration: Calibration, n_draws: int, seed: int
) -> dict[str, list[list[Head]]]:
    """Draws of as many heads as there are specialists: of any other heads; and of layers that hold
    none, those before the audio has reached the last position apart from the others. A kind of
    layers that there is none of has no draws; one of fewer heads gives them all.
    """
    cfg, steering = model.cfg, calibration.steering
    before = set(calibration.layers_before)
    others = set(range(cfg.n_layers)) - set(steering.layers)

    def drawn(but: Sequence[Head]) -> list[list[Head]]:
        k = min(len(steering.heads), cfg.n_layers * cfg.n_heads - len(set(but)))
        return random_heads(cfg.n_layers, cfg.n_heads, k, n_draws, seed, but)

    found = {RANDOM: drawn(steering.heads)}
    for name, layers in ((BEFORE, others & before), (AFTER, others - before)):
        if layers:
            elsewhere = [layer for layer in range(cfg.n_layers) if layer not in layers]
            found[name] = drawn([(layer, h) for layer in elsewhere for h in range(cfg.n_heads)])
    return found


def _methods(
    model: HookedAudioTransformer,
    calibration: Calibration,
    draws: dict[str, list[list[Head]]],
) -> tuple[dict[str, list[Answers]], dict[str, list[float]]]:
    """Each method's answers, of every draw, and the strengths: by the rule that chose ours, each
    draw's own.
    """
    ours = calibration.steering

    def by(heads: Sequence[Head]) -> Answers:
        return steered(model, replace(ours, heads=tuple(heads)))

    tuned: dict[str, list[Answers]] = {CONTRASTIVE: [contrastive_answers(model)]}
    tuned |= {name: [by(heads) for heads in some] for name, some in draws.items()}
    tuned |= {rule: [by(heads)] for rule, heads in calibration.other_heads.items()}
    given = {UNSTEERED: (ours, 0.0), OURS: (ours, float(ours.beta)),
             FIXED: (calibration.fixed, float(calibration.fixed.beta))}  # fmt: skip
    methods = {name: [steered(model, steering)] for name, (steering, _) in given.items()} | tuned
    betas = {name: [beta] for name, (_, beta) in given.items()}
    betas |= {name: [calibration.own_strength(a) for a in some] for name, some in tuned.items()}
    return methods, betas


def _correct(
    found: ItemActivations, answers: Sequence[Answers], betas: Sequence[float]
) -> Bool[Tensor, "*draw item"]:
    """Right answers under a method; one row a draw where it has several."""
    right = [each(found, beta) for each, beta in zip(answers, betas, strict=True)]
    return right[0] if len(right) == 1 else torch.stack(right)


def _share(right: Bool[Tensor, "*draw item"]) -> Interval:
    return wilson(right) if right.ndim == 1 else over_draws(right)


def _curves(
    found: ItemActivations, methods: dict[str, list[Answers]], calibration: Calibration
) -> pd.DataFrame:
    """Accuracy at each beta, with its interval, of each method but those that other rules found."""
    rows = []
    skipped = {UNSTEERED, *calibration.other_heads}
    for name in (name for name in methods if name not in skipped):
        for beta in sorted({*calibration.betas, float(calibration.steering.beta)}):
            right = _correct(found, methods[name], [beta] * len(methods[name]))
            for condition, members in found.conditions.items():
                share = _share(right[..., members])
                rows.append((name, condition, beta, *share[:3], share.over))
    columns = ["method", "condition", "beta", "accuracy", "low", "high", "over"]
    return pd.DataFrame(rows, columns=columns)


def _single_layers(
    model: HookedAudioTransformer, found: ItemActivations, calibration: Calibration
) -> pd.DataFrame:
    """Accuracy of steering by each layer alone (all its heads), at each beta, with its interval."""
    shifts, rows = calibration.activations.shifts().tolist(), []
    for layer in range(model.cfg.n_layers):
        heads = tuple((layer, head) for head in range(model.cfg.n_heads))
        alone = replace(calibration.steering, heads=heads)
        for beta in calibration.betas:
            right = found.correct(model, alone.with_beta(beta))
            for condition, members in found.conditions.items():
                share = wilson(right[members])
                rows.append((layer, shifts[layer], condition, beta, *share[:3]))
    columns = ["layer", "shift", "condition", "beta", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def table_of_methods(
    correct: dict[str, Tensor],
    betas: dict[str, list[float]],
    conditions: dict[str, Bool[Tensor, " item"]],
    seed: int,
    ours: str = OURS,
) -> pd.DataFrame:
    """The `table` of a `SteeringReport`: of these methods, which lead or trail `ours`."""
    rows = []
    for condition, members in conditions.items():
        here = {method: right[..., members] for method, right in correct.items()}
        for method, right in here.items():
            row: dict[str, Any] = {"condition": condition, "method": method, "n": right.shape[-1]}
            row["beta"] = sum(betas[method]) / len(betas[method])
            for name, interval in (
                ("accuracy", _share(right)),
                ("change", _difference(right, here[UNSTEERED], seed)),
                ("lead", _difference(here[ours], right, seed)),
            ):
                row |= {
                    name: interval.value,
                    f"{name}_low": interval.low,
                    f"{name}_high": interval.high,
                    f"{name}_over": interval.over,
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _difference(
    first: Bool[Tensor, "*draw item"], second: Bool[Tensor, "*other item"], seed: int
) -> Interval:
    """The paired difference; of a method and itself it is nothing."""
    return Interval(0.0, 0.0, 0.0) if first is second else paired_difference(first, second, seed)


def _auroc_conflict(
    scores: Float[Tensor, " item"],
    by_audio: Bool[Tensor, " item"],
    conflict: Bool[Tensor, " item"],
    seed: int,
) -> Interval:
    """Of the listening score, for conflict items answered as the audio says."""
    if not bool(conflict.any()):
        return Interval.undefined_because("the data set has no conflict items")
    return auroc(scores[conflict], by_audio[conflict], seed=seed)


def baselines_of(
    found: ItemActivations,
    by_audio: Bool[Tensor, " item"],
    conflict: Bool[Tensor, " item"],
    seed: int,
) -> dict[str, Interval]:
    """The AUROC for conflict items answered as the audio says, of what is known without any head:
    the caption's wording and the deciding sound's SNR in dB where the items tell them, and the
    confidence of the unsteered answer. Below 0.5, such items are those where it is lower.
    """
    if not bool(conflict.any()):
        return {}
    members = [item for item, inside in zip(found.items, conflict.tolist(), strict=True) if inside]
    told: dict[str, list[float | None]] = {
        "the caption is worded plainly": [_is_plain(item) for item in members],
        "SNR": [getattr(item, "snr_db", None) for item in members],
        "confidence of the answer": found.confidence.cpu()[conflict].tolist(),
    }
    return {
        name: auroc(torch.tensor(values), by_audio[conflict], seed=seed)
        for name, values in told.items()
        if None not in values
    }


def _is_plain(item: AudioQAItem) -> float | None:
    """1 for a caption in plain words, 0 for a firm one, None where the item does not tell."""
    firm = getattr(item, "firm", None)
    wording = item.facts.get("wording", None if firm is None else "firm" if firm else "plain")
    return None if wording is None else float(wording == "plain")


def count_changed(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    steerings: Sequence[AudioSilenceSteering],
    batch_size: int = 16,
) -> int:
    """How many items have logits that any of these steerings changes by even one bit."""
    changed = 0
    for batch, prompt in batches(model, items, batch_size, verbose=False):
        plain = model(prompt, logits_to_keep=1)
        differs = torch.zeros(len(batch), dtype=torch.bool, device=plain.device)
        for steering in steerings:
            with steering.attach(model):
                differs |= (model(prompt, logits_to_keep=1) != plain).any(-1).any(-1)
        changed += int(differs.sum())
    return changed
