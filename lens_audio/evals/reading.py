"""One batch read once: what every run of it shares, however it is steered."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.attention import attention_hooks, audio_mass
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.evals.silence import Read, SilentBeginnings, last_after, read_silence
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache


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
    beginnings: SilentBeginnings,
    answer_silence: bool = False,
) -> Heard:
    """Read a left-padded batch of one clip a row with its audio; and over silence.

    Silence is read up to the last of `layers`, or to its end with `answer_silence`, to be answered
    too; without it and without layers it is not read at all.
    """
    prompt = prompt.to(model.device)
    mass_hooks, attention = attention_hooks(model, prompt)
    with model.hooks(fwd_hooks=mass_hooks):
        read, heard = _read(model, prompt, layers)
    mass = audio_mass(attention())
    if not layers and not answer_silence:
        return Heard(read, mass, {}, None)
    silent, residuals = read_silence(model, prompt, layers, beginnings, answer_silence)
    pairs = zip(heard, residuals, strict=True)
    return Heard(read, mass, {l: a - b for l, (a, b) in zip(layers, pairs, strict=True)}, silent)


def _read(
    model: HookedAudioTransformer, prompt: AudioPrompt, layers: Sequence[int]
) -> tuple[Read, list[Float[Tensor, "row d_model"]]]:
    past, n_layers = KeyValueCache(model.cfg.n_layers), model.cfg.n_layers
    with last_after(model, layers) as kept:
        resid = model(prompt, past_kv_cache=past, stop_at_layer=n_layers)
    return Read(past, resid[:, -1].clone()), list(kept.values())
