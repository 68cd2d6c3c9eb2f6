"""Batches read once, for all that is answered to them: with their audio, and over silence.

Steering adds to the final representation alone, which nothing attends to: so one forward of a prompt
serves every steering, and so do the keys and values of whatever is generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.attention import attention_hooks, audio_mass
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache
from lens_audio.steering.audio_silence.direction import direction
from lens_audio.steering.audio_silence.silent_prefixes import (
    Prefill,
    SilentPrefixes,
    by_layer,
    last_after,
    prefill_silence,
)


@dataclass(frozen=True, eq=False)
class Prefilled:
    """A batch with its audio, and what is known of it over silence of equal length."""

    prefill: Prefill
    mass: Float[Tensor, "row layer head"]  # audio mass at T
    with_audio: dict[int, Tensor]  # by layer, [row, d_model]: resid_post at T
    silent: dict[int, Tensor] = field(default_factory=dict)  # the same over silence
    silent_prefill: Prefill | None = None  # where silence is to be answered, too

    def direction(self, layers: Sequence[int]) -> Float[Tensor, "row d_model"]:
        """s(x) of each row for specialists in these layers."""
        return direction(self.with_audio, self.silent, layers)


@torch.no_grad()
def prefill(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    layers: Sequence[int],
    prefixes: SilentPrefixes,
    answer_silence: bool = False,
) -> Prefilled:
    """Read a left-padded batch of one clip a row with its audio; and over silence.

    Silence is read up to the last of `layers`, or to its end with `answer_silence`, to be answered
    too; without it and without layers it is not read at all.
    """
    prompt = prompt.to(model.device)
    past, n_layers = KeyValueCache(model.cfg.n_layers), model.cfg.n_layers
    mass_hooks, attention = attention_hooks(model, prompt)
    with model.hooks(fwd_hooks=mass_hooks), last_after(model, layers) as kept:
        resid = model(prompt, past_kv_cache=past, stop_at_layer=n_layers)
    with_audio = Prefill(past, resid[:, -1].clone())
    mass, residuals = audio_mass(attention()), by_layer(kept, layers)
    if not layers and not answer_silence:
        return Prefilled(with_audio, mass, residuals)
    silent_prefill, silent = prefill_silence(model, prompt, layers, prefixes, answer_silence)
    return Prefilled(with_audio, mass, residuals, silent, silent_prefill)
