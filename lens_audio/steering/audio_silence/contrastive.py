"""Contrastive decoding: what the audio changes in the logits, added to them once more.

    logits(x) <- (1 + a) · logits(x) - a · logits(x over silence)

Shi et al., "Trusting Your Evidence: Hallucinate Less with Context-aware Decoding", arXiv 2305.14739,
with silence of equal length in the place of the missing context; for audio compared in Lin et al.,
"How Contrastive Decoding Enhances Large Audio Language Models?", arXiv 2603.09232.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.steering.audio_silence.item_activations import ItemActivations


def contrastive_choices(
    model: HookedAudioTransformer, found: ItemActivations, strength: float | int
) -> Int[Tensor, " item"]:
    """Each item's choice of highest contrastive logit; strength 0 is the model as it is."""
    heard = found.choice_logits(model, found.final).float()
    silent = found.choice_logits(model, found.silent[max(found.silent)]).float()
    contrasted = (1 + strength) * heard - strength * silent
    return contrasted.masked_fill(found.choices < 0, -torch.inf).argmax(-1)
