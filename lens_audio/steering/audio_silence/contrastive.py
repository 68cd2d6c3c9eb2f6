"""Contrastive decoding: what the audio changes in the logits, added to them once more.

    logits(x) <- (1 + a) · logits(x) - a · logits(x over silence)

Shi et al., "Trusting Your Evidence: Hallucinate Less with Context-aware Decoding", arXiv 2305.14739,
with silence of equal length in the place of the missing context; for audio compared in Lin et al.,
"How Contrastive Decoding Enhances Large Audio Language Models?", arXiv 2603.09232.

Here it chooses among the choices of items that were read before; `la.steering.contrastive` acts
while a model runs.
"""

from collections.abc import Callable, MutableMapping
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.steering.audio_silence.item_activations import ItemActivations


def contrasted(
    plain: Float[Tensor, "*axes d_vocab"],
    other: Float[Tensor, "*axes d_vocab"],
    alpha: float | int,
) -> Float[Tensor, "*axes d_vocab"]:
    """(1 + alpha) · plain - alpha · other, in float32 at least."""
    dtype = torch.promote_types(plain.dtype, torch.float32)
    return (1 + alpha) * plain.to(dtype) - alpha * other.to(dtype)


def contrastive_choices(
    model: HookedAudioTransformer, found: ItemActivations, strength: float | int
) -> Int[Tensor, " item"]:
    """Each item's choice of highest contrastive logit; strength 0 is the model as it is."""
    return _chosen(found, *_choice_logits_of_both(model, found), strength)


def contrastive_answers(
    model: HookedAudioTransformer,
) -> Callable[[ItemActivations, float], Bool[Tensor, " item"]]:
    """Which items are answered right, at any strength; both sides' logits are computed once."""
    known: MutableMapping[ItemActivations, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def right(found: ItemActivations, strength: float) -> Bool[Tensor, " item"]:
        if found not in known:
            known[found] = _choice_logits_of_both(model, found)
        return (_chosen(found, *known[found], strength) == found.answers).cpu()

    return right


def _choice_logits_of_both(
    model: HookedAudioTransformer, found: ItemActivations
) -> tuple[Float[Tensor, "item choice"], Float[Tensor, "item choice"]]:
    """With the audio, and over silence."""
    heard = found.choice_logits(model, found.final)
    return heard, found.choice_logits(model, found.silent[max(found.silent)])


def _chosen(
    found: ItemActivations,
    heard: Float[Tensor, "item choice"],
    silent: Float[Tensor, "item choice"],
    strength: float | int,
) -> Int[Tensor, " item"]:
    logits = contrasted(heard, silent, strength)
    return logits.masked_fill(found.choices < 0, -torch.inf).argmax(-1)
