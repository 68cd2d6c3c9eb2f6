"""What calibration needs of every item, from one pass: then any heads and any beta are algebra.

Steering adds to the final representation at the last prompt position, so the steered logits there
are exactly unembed(ln_final(h_T + beta · s)). That settles the first answer token, which is the
whole answer where every choice is one token; longer choices are told apart by their first token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.analysis.attention import audio_attention, audio_mass
from lens_audio.analysis.listening import Head, listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import choice_logits, first_tokens
from lens_audio.data.batches import batches
from lens_audio.data.collect import collecting, layer_names
from lens_audio.data.items import AudioQAItem, by_condition, check_items
from lens_audio.inputs import AudioPrompt
from lens_audio.steering.audio_silence.attach import AudioSilenceSteering
from lens_audio.steering.audio_silence.direction import (
    SilenceEmbeddings,
    direction,
    last_residuals,
    over_silence,
)
from lens_audio.steering.audio_silence.settings import confidence, steps


@dataclass(frozen=True, eq=False)
class ItemActivations:
    """What steering needs of every item of a data set, on the model's device."""

    items: list[AudioQAItem]
    mass: Float[Tensor, "item layer head"]  # audio mass at T
    with_audio: dict[int, Tensor]  # by layer, [item, d_model]: resid_post at T
    silent: dict[int, Tensor]  # the same over silence of equal length
    confidence: Float[Tensor, " item"]  # of the unsteered next token
    choices: Int[Tensor, "item choice"]  # first tokens; -1 fills up rows with fewer
    answers: Int[Tensor, " item"]  # which choice is right
    has_audio: Bool[Tensor, " item"]

    @property
    def final(self) -> Float[Tensor, "item d_model"]:
        """h_T, the last layer's resid_post with the audio."""
        return self.with_audio[max(self.with_audio)]

    @property
    def ids(self) -> list[str]:
        """The items' ids, in order."""
        return [item.id for item in self.items]

    @property
    def conditions(self) -> dict[str, Bool[Tensor, " item"]]:
        """Which items each condition has, in order of first appearance."""
        return {name: torch.tensor(some) for name, some in by_condition(self.items).items()}

    def own_directions(self, heads: Sequence[Head]) -> Float[Tensor, "item d_model"]:
        """s of each item for these specialists; exactly 0 without audio."""
        s = direction(self.with_audio, self.silent, sorted({layer for layer, _ in heads}))
        return torch.where(self.has_audio[:, None], s, torch.zeros_like(s))

    def mean_direction(self, heads: Sequence[Head]) -> Float[Tensor, " d_model"]:
        """The mean of s over the items with audio."""
        return self.own_directions(heads)[self.has_audio].mean(0)

    def shifts(self) -> Float[Tensor, " layer"]:
        """How much of the audio has reached T by each layer: the mean norm of its s over the items with
        audio, as a share of the mean norm of the final representation.
        """
        size = self.final.norm(dim=-1)[self.has_audio].mean()
        moved = [self.with_audio[layer] - self.silent[layer] for layer in sorted(self.with_audio)]
        return torch.stack([x[self.has_audio].norm(dim=-1).mean() / size for x in moved]).cpu()

    def steps(self, steering: AudioSilenceSteering) -> Float[Tensor, "item d_model"]:
        """What this steering adds to each item's final representation."""
        s = self.own_directions(steering.heads)
        if steering.direction is not None:
            s = steering.direction.to(s) * self.has_audio[:, None]
        if steering.adaptive == "confidence":
            return steering.beta * (1 - self.confidence)[:, None].to(s) * s
        return steps(steering, s, listening_score(self.mass, steering.heads), _never)

    def chosen(
        self, model: HookedAudioTransformer, added: Float[Tensor, "item d_model"] | float = 0.0
    ) -> Int[Tensor, " item"]:
        """The choice of highest probability after adding this to the final representation."""
        return self.choice_logits(model, self.final + added).argmax(-1)

    @torch.no_grad()
    def choice_logits(
        self, model: HookedAudioTransformer, final: Float[Tensor, "item d_model"], chunk: int = 256
    ) -> Float[Tensor, "item choice"]:
        """The logit of each choice's first token, -inf where there is no choice, from these final
        representations: a few at a time, as a row of logits is a whole vocabulary.
        """
        rows = zip(final.split(chunk), self.choices.split(chunk), strict=True)
        return torch.cat([choice_logits(model.logits_of(h[:, None])[:, 0], c) for h, c in rows])

    def chosen_over_silence(self, model: HookedAudioTransformer) -> Int[Tensor, " item"]:
        """The choice where silence of the same length takes the audio's place."""
        return self.choice_logits(model, self.silent[max(self.silent)]).argmax(-1)

    def correct(
        self, model: HookedAudioTransformer, steering: AudioSilenceSteering | None = None
    ) -> Bool[Tensor, " item"]:
        """Which items are answered right, steered or not, on the CPU."""
        added = 0.0 if steering is None or steering.beta == 0 else self.steps(steering)
        return (self.chosen(model, added) == self.answers).cpu()


def _never() -> Tensor:
    raise AssertionError("confidence is known from the items' activations")


@torch.no_grad()
def item_activations(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    *,
    batch_size: int = 16,
    verbose: bool = True,
    what: str = "items",
) -> ItemActivations:
    """Run every item with its audio and over silence: two forwards of the decoder, one encoder.

    Raises:
        ValueError: for no items, an id given twice, choices that begin with the same token, or hooks
            set on the model.
    """
    model.check_no_hooks()
    check_items(items, needs=("answer",))
    silences = SilenceEmbeddings()
    parts = [
        _of_batch(model, prompt, silences)
        for _, prompt in batches(model, items, batch_size, verbose, what)
    ]
    answers = [item.answer_index for item in items]
    return ItemActivations(
        list(items),
        **{name: _joined([part[name] for part in parts]) for name in parts[0]},
        choices=first_tokens(model, items),
        answers=torch.tensor(answers, device=model.device),
    )


def _joined(parts: list[Any]) -> Any:
    """Tensors of batches one after another; of dictionaries, those of each key."""
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    return torch.cat(parts)


def _of_batch(
    model: HookedAudioTransformer, prompt: AudioPrompt, silences: SilenceEmbeddings
) -> dict[str, Any]:
    """One batch's part of each field of `ItemActivations`."""
    layers = range(model.cfg.n_layers)
    names = layer_names("hook_resid_post", layers)
    with (
        collecting(model, ["blocks.0.hook_resid_pre"]) as entered,
        # Left-padded, so the last position is each row's own.
        collecting(model, names, take=lambda resid: resid[:, -1].clone()) as after,
    ):
        mass = audio_mass(audio_attention(model, prompt))
    quiet = over_silence(model, prompt, entered["blocks.0.hook_resid_pre"], silences)
    logits = model.logits_of(after[names[-1]][:, None])[:, 0]
    return {
        "mass": mass,
        "with_audio": {layer: after[name] for layer, name in zip(layers, names, strict=True)},
        "silent": last_residuals(model, quiet, prompt.attention_mask.to(quiet.device), layers),
        "confidence": confidence(logits),
        "has_audio": prompt.audio_mask.any(1).to(mass.device),
    }
