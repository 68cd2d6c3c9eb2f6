"""Perturbations of recordings that stay a given number of decibels below the signal.

For an item x of listening score s(x), let m(x) = logit(c) - max over the other choices of their logit
be the margin of the choice c that the model prefers unperturbed, of the choices' first tokens. The
attack looks for the perturbation d that minimises

    J(d) = s(x + d) / s(x) + w max(0, k - m(x + d))           target "score"
    J(d) = max(0, k + m(x + d)) + w |s(x + d) / s(x) - 1|     target "answer"

with rms(d) <= rms(x) 10^(-level_db / 20) for every clip: "score" lowers the score while c stays ahead
by k logits, "answer" puts another choice ahead by k logits while the score stays. The weight w is what
a missing logit costs, or what the score's relative change costs in logits.

It takes normalised gradient steps, each projected onto the bound: Madry and others, "Towards Deep
Learning Models Resistant to Adversarial Attacks", arXiv 1706.06083, with the hinge on the margin of
Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", arXiv 1608.04644. Samples
may leave [-1, 1], as no file could hold them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.analysis.attention import attention_hooks, audio_mass
from lens_audio.analysis.listening import Head, check_heads, listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import check_last_position, choice_logits
from lens_audio.inputs import AudioPrompt
from lens_audio.inputs.log_mel import original_waveforms, with_waveforms

PENALTY = {"score": 1.0, "answer": 3.0}  # of each target: w, unless one is given
STEP = 2.5  # times the bound is what all steps together may travel, as in Madry and others
MOST_DB = 200.0  # beyond it float32 knows no such level

Waveforms = list[Float[Tensor, " _"]]


class Signals(NamedTuple):
    """What a prompt's rows give: the listening score, and the logits of the choices' first tokens."""

    score: Float[Tensor, " item"]
    logits: Float[Tensor, "item choice"]  # -inf where there is no choice


def signals(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    heads: Sequence[Head],
    tokens: Int[Tensor, "item choice"],
) -> Signals:
    """Listening score and logits of the choices, in one forward that passes gradients.

    Args:
        tokens: of `data.answers.first_tokens`.
    """
    check_last_position(prompt)
    hooks, attention = attention_hooks(model, prompt)
    with model.hooks(fwd_hooks=hooks):
        logits: Float[Tensor, "item d_vocab"] = model(prompt, logits_to_keep=1)[:, -1]
    return Signals(listening_score(audio_mass(attention()), heads), choice_logits(logits, tokens))


def attack(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    heads: Sequence[Head],
    tokens: Int[Tensor, "item choice"],
    level_db: float | int,
    target: str = "score",
    *,
    steps: int = 20,
    penalty: float | int | None = None,
    margin: float | int = 1.0,
) -> Waveforms:
    """The perturbation of each clip of the batch that lowers J most, of those that the steps visit.

    The first is no perturbation at all, so that no item ends worse than it began. It knows the model
    and the heads (a white-box attack). Nothing in it is random.

    Args:
        prompt: a left-padded batch, one item a row.
        heads: of the listening score.
        tokens: of `data.answers.first_tokens`.
        level_db: of the bound, below the signal.
        penalty: w; by default 1 for the score, 3 for the answer.
        margin: k, in logits.

    Raises:
        ValueError: for another target, a level that is not finite, no steps, a negative penalty or
            margin, heads that do not exist, hooks on the model, a row without audio, a silent clip,
            or a prompt made from tensors.
    """
    model.check_no_hooks()
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
    weight = check_attack(target, steps, penalty, margin)
    waves = original_waveforms(prompt)
    bounds = [bound(wave, level_db) for wave in waves]
    clips = [prompt.clips_of(row) for row in range(len(prompt))]
    if not all(clips):
        raise ValueError("a row of this prompt has no audio: ask about a recording in each of them")
    moved = [torch.zeros_like(wave) for wave in waves]
    best = list(moved)
    first, lowest = None, torch.full((len(prompt),), torch.inf, device=prompt.tokens.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            moved = [delta.requires_grad_() for delta in moved]
            heard = [wave + delta for wave, delta in zip(waves, moved, strict=True)]
            now = signals(model, with_waveforms(prompt, heard), heads, tokens)
            first = first or Signals(now.score.detach(), now.logits.detach())
            values = objective(now, first, target, weight, margin)
        for row in torch.nonzero(values < lowest)[:, 0].tolist():
            for clip in clips[row]:
                best[clip] = moved[clip].detach()
        lowest = torch.minimum(lowest, values.detach())
        if step < steps:
            gradients = torch.autograd.grad(values.sum(), moved)
            moved = [
                within(delta.detach() - _scaled(gradient, STEP * most / steps), most)
                for delta, gradient, most in zip(moved, gradients, bounds, strict=True)
            ]
    return best


def objective(
    now: Signals, first: Signals, target: str, weight: float, margin: float | int
) -> Float[Tensor, " item"]:
    """J of each item; `first` is what it gives unperturbed."""
    chosen = first.logits.argmax(1, keepdim=True)
    rest = now.logits.scatter(1, chosen, -torch.inf).amax(1)
    ahead = now.logits.gather(1, chosen)[:, 0] - rest
    share = now.score / first.score.clamp(min=torch.finfo(first.score.dtype).tiny)
    if target == "score":
        return share + weight * (margin - ahead).clamp(min=0)
    return (margin + ahead).clamp(min=0) + weight * (share - 1).abs()


def random_like(
    perturbation: Sequence[Float[Tensor, " _"]], seed: int | Sequence[int]
) -> Waveforms:
    """White noise of the RMS of each perturbation: the control of an attack."""
    rng = np.random.default_rng(seed)
    drawn = [torch.from_numpy(rng.standard_normal(len(one))) for one in perturbation]
    return [
        _scaled(noise.to(one), float(rms(one)))
        for noise, one in zip(drawn, perturbation, strict=True)
    ]


def within(delta: Float[Tensor, " sample"], most: float) -> Float[Tensor, " sample"]:
    """The perturbation, scaled down to this RMS if it has more: the projection onto the bound."""
    return delta if float(rms(delta)) <= most else _scaled(delta, most)


def bound(waveform: Float[Tensor, " sample"], level_db: float | int) -> float:
    """The RMS that lies so many decibels below the waveform's.

    Raises:
        ValueError: for a silent waveform, or as `check_levels`.
    """
    check_levels([level_db])
    loudness = float(rms(waveform))
    if not loudness:
        raise ValueError("a clip is silent, so nothing lies decibels below it: leave the item out")
    return loudness * 10 ** (-level_db / 20)


def rms(waveform: Float[Tensor, " sample"]) -> Float[Tensor, ""]:
    """The root of the mean square."""
    return waveform.square().mean().sqrt()


def check_levels(levels: Sequence[float | int]) -> None:
    """Refuse levels in decibels that are not finite, or that no float32 waveform can have."""
    for level in levels:
        if not -MOST_DB <= level <= MOST_DB:
            raise ValueError(
                f"a level of {level} dB: give finite decibels below the signal, at most "
                f"{MOST_DB:g} either way"
            )


def check_attack(
    target: str, steps: int, penalty: float | int | None, margin: float | int
) -> float:
    """The penalty's weight; refuses settings that no attack can have."""
    if target not in PENALTY:
        raise ValueError(f"no target {target!r}; choose one of {', '.join(PENALTY)}")
    weight = PENALTY[target] if penalty is None else float(penalty)
    if steps < 1 or not 0 <= weight < float("inf") or not 0 <= margin < float("inf"):
        raise ValueError(
            f"an attack takes at least 1 step, and a penalty and a margin of 0 or more: not "
            f"{steps} steps, penalty {weight:g}, margin {margin:g}"
        )
    return weight


def _scaled(waveform: Float[Tensor, " sample"], to: float) -> Float[Tensor, " sample"]:
    """Of this RMS; what is all zero stays so."""
    loudness = rms(waveform)
    return waveform * (to / loudness) if float(loudness) else torch.zeros_like(waveform)
