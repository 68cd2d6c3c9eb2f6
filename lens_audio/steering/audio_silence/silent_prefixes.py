"""Prompts over silence, of which nearly all has been read before.

Up to the end of its audio a prompt over silence is the same for every question about a recording of
that length: the chat template's opening, then silence. So its keys and values are kept, and only
the text behind the audio is read for each question.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import collecting, layer_names
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache
from lens_audio.model.shared_prefix import Continuations, joined
from lens_audio.steering.audio_silence.direction import SilenceEmbeddings, over_silence

KEPT = 4  # prefixes; batches are of like length, and 30 s of the 7B model in bfloat16 is 400 MB


@dataclass(frozen=True, eq=False)
class Prefill:
    """A batch after one forward of the decoder, at each row's last prompt position T."""

    past: KeyValueCache
    final: Float[Tensor, "row d_model"]  # h_T, the last layer's resid_post


class SilentPrefixes:
    """Keys and values of prompts over silence up to the end of the audio; the oldest go first."""

    def __init__(self) -> None:
        self.silences = SilenceEmbeddings()
        self._kept: OrderedDict[Any, KeyValueCache] = OrderedDict()

    def of(self, model: HookedAudioTransformer, prompt: AudioPrompt, depth: int) -> KeyValueCache:
        """The first `depth` layers of a prompt of one row that ends where its audio does."""
        weight = model.embed.W_E
        key = (depth, weight.dtype, str(weight.device), *_identity(prompt))
        if key not in self._kept:
            self._kept[key] = self._read(model, prompt, depth)
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _read(
        self, model: HookedAudioTransformer, prompt: AudioPrompt, depth: int
    ) -> KeyValueCache:
        told = model.embed_text(prompt.tokens, prompt.audio_mask)
        quiet = over_silence(model, prompt, told, self.silences)
        past = KeyValueCache(depth)
        model(quiet, start_at_layer=0, stop_at_layer=depth, past_kv_cache=past)
        return past


def is_mostly_shared(prompt: AudioPrompt) -> bool:
    """Whether `prefill_silence` can read a batch, and what it reads can be kept for the next one."""
    mask, audio_mask = prompt.attention_mask, prompt.audio_mask
    is_left_padded = bool(mask[:, -1].all()) and bool((mask[:, 1:] >= mask[:, :-1]).all())
    has_audio_before_text = bool((audio_mask.any(1) & ~audio_mask[:, -1]).all())
    if not (is_left_padded and has_audio_before_text):
        return False
    kinds = {_identity(_up_to_audio(prompt, row)) for row in range(len(prompt))}
    return len(kinds) <= KEPT


def last_after(model: HookedAudioTransformer, layers: Sequence[int]) -> Any:
    """Inside, the residual stream after each of these layers at the last position, by hook name."""
    # A copy lets go of the other positions.
    names = layer_names("hook_resid_post", layers)
    return collecting(model, names, take=lambda resid: resid[:, -1].clone())


def by_layer(kept: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """What `last_after` has kept, by layer."""
    names = layer_names("hook_resid_post", layers)
    return {layer: kept[name] for layer, name in zip(layers, names, strict=True)}


def prefill_silence(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    layers: Sequence[int],
    prefixes: SilentPrefixes,
    to_the_end: bool,
) -> tuple[Prefill | None, dict[int, Tensor]]:
    """A batch over silence at its last position, left-padded, with text behind every row's audio.

    Returns:
        What can be continued, if it was read to the end; and `resid_post` by layer.
    """
    depth = model.cfg.n_layers if to_the_end else max(layers) + 1
    begun = [_up_to_audio(prompt, row) for row in range(len(prompt))]
    alike: dict[tuple[int, ...], list[int]] = {}
    for row, one in enumerate(begun):
        alike.setdefault(_identity(one), []).append(row)
    parts = [
        _read_behind(model, prompt, rows, layers, prefixes.of(model, begun[rows[0]], depth))
        for rows in alike.values()
    ]
    read = [row for rows in alike.values() for row in rows]
    order = sorted(range(len(read)), key=read.__getitem__)
    pasts, finals, kept = zip(*parts, strict=True)
    residuals = {layer: torch.cat([part[layer] for part in kept])[order] for layer in layers}
    if not to_the_end:
        return None, residuals
    return Prefill(joined(pasts, order), torch.cat(finals)[order]), residuals


def _read_behind(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    rows: list[int],
    layers: Sequence[int],
    prefix: KeyValueCache,
) -> tuple[KeyValueCache, Float[Tensor, "row d_model"], dict[int, Tensor]]:
    """Read what stands behind the audio of these rows, which begin alike.

    Returns:
        What can be continued; after the last layer read, the last position; `resid_post` by layer.
    """
    depth, past = len(prefix.entries), _of_rows(prefix, len(rows), model.device)
    if depth < model.cfg.n_layers:
        past.freeze()  # nothing will be continued
    behind = prompt.audio_mask[rows].flip(1).cumsum(1).flip(1) == 0
    first = int(behind.any(0).long().argmax())
    told = model.embed_text(prompt.tokens[rows], prompt.audio_mask[rows])[:, first:]
    with last_after(model, layers) as kept:
        resid = model(
            told, start_at_layer=0, attention_mask=behind[:, first:], past_kv_cache=past,
            stop_at_layer=depth,
        )  # fmt: skip
    return past, resid[:, -1].clone(), by_layer(kept, layers)


def _up_to_audio(prompt: AudioPrompt, row: int) -> AudioPrompt:
    """One row without its padding, up to the end of its audio."""
    start = int(prompt.attention_mask[row].long().argmax())
    end = int(prompt.audio_positions(row)[-1]) + 1
    assert prompt.mel is not None
    assert prompt.mel_lengths is not None
    one, clips, windows = slice(row, row + 1), prompt.clips_of(row), prompt.spectrograms_of(row)
    spectrograms = slice(windows.start, windows.stop)
    return replace(
        prompt,
        tokens=prompt.tokens[one, start:end],
        attention_mask=prompt.attention_mask[one, start:end],
        audio_mask=prompt.audio_mask[one, start:end],
        mel=prompt.mel[spectrograms],
        mel_lengths=prompt.mel_lengths[spectrograms],
        waveforms=prompt.waveforms and prompt.waveforms[clips.start : clips.stop],
    )


def _identity(prefix: AudioPrompt) -> tuple[int, ...]:
    """What a prefix over silence depends on."""
    assert prefix.mel_lengths is not None
    lengths = prefix.mel_lengths.tolist()
    return len(lengths), *lengths, *prefix.tokens[0].tolist()


def _of_rows(prefix: KeyValueCache, n_rows: int, device: torch.device) -> KeyValueCache:
    """A cache of so many rows that begin alike: one row has a copy, more read it in place."""
    if n_rows == 1:
        return joined([prefix])
    past = Continuations.of(prefix)
    past.select(torch.zeros(n_rows, dtype=torch.long, device=device))
    return past
