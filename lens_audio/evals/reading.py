"""One batch read once: what every run of it shares, however it is steered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.attention import attention_hooks, audio_mass
from lens_audio.inputs import AudioPrompt
from lens_audio.model import HookedAudioTransformer, KeyValueCache
from lens_audio.steering.sides import Silences, last_residuals, silent_side


@dataclass(frozen=True, eq=False)
class Read:
    """A batch after one forward of the decoder, at each row's last prompt position T.

    Steering adds to the final representation alone, which nothing attends to: so all of this is
    the same under every steering, and so are the keys and values of whatever is generated.
    """

    past: KeyValueCache
    final: Float[Tensor, "row d_model"]  # h_T, the last layer's resid_post


@dataclass(frozen=True, eq=False)
class Heard:
    """A batch with its audio, and what is known of it over silence of equal length."""

    read: Read
    mass: Float[Tensor, "row layer head"]  # audio mass at T
    shift: dict[int, Tensor]  # by layer, [row, d_model]: resid_post at T minus that of silence
    silent: Read | None

    def direction(self, layers: Sequence[int]) -> Float[Tensor, "row d_model"]:
        """s(x) of each row: the mean shift over these layers."""
        return torch.stack([self.shift[layer] for layer in layers], dim=1).mean(1)


@torch.no_grad()
def hear(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    layers: Sequence[int],
    silences: Silences,
    answer_silence: bool = False,
) -> Heard:
    """Read a left-padded batch with its audio; and over silence up to the last of `layers`.

    The encoder runs once, and for silence once a length. With `answer_silence` the silent side is
    read to its end, to be answered too; without it and without layers it is not read at all.
    """
    prompt = prompt.to(model.device)
    entered: list[Tensor] = []

    def keep_input(resid: Tensor, hook: Any) -> None:
        entered.append(resid)

    mass_hooks, attention = attention_hooks(model, prompt)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", keep_input), *mass_hooks]):
        read, heard = _read(model, prompt, layers)
    mass, shift, silent = audio_mass(attention()), {}, None
    if layers or answer_silence:
        quiet = silent_side(model, prompt, entered.pop(), silences)
        mask = prompt.attention_mask.to(quiet.device)
        if answer_silence:
            begin = {"start_at_layer": 0, "attention_mask": mask}
            silent, residuals = _read(model, quiet, layers, **begin)
        else:
            residuals = list(last_residuals(model, quiet, mask, layers).unbind(1))
        pairs = zip(heard, residuals, strict=True)
        shift = {layer: a - b for layer, (a, b) in zip(layers, pairs, strict=True)}
    return Heard(read, mass, shift, silent)


def _read(
    model: HookedAudioTransformer, input: Any, layers: Sequence[int], **begin: Any
) -> tuple[Read, list[Float[Tensor, "row d_model"]]]:
    """Fill a cache, and keep the last position after each of these layers."""
    kept: list[Tensor] = []

    def keep_last(resid: Tensor, hook: Any) -> None:
        kept.append(resid[:, -1].clone())  # a copy lets go of the other positions

    past, n_layers = KeyValueCache(model.cfg.n_layers), model.cfg.n_layers
    with model.hooks(
        fwd_hooks=[(f"blocks.{layer}.hook_resid_post", keep_last) for layer in layers]
    ):
        resid = model(input, past_kv_cache=past, stop_at_layer=n_layers, **begin)
    return Read(past, resid[:, -1].clone()), kept
