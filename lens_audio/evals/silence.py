"""Prompts over silence: all that silence of one length shares is computed once.

Up to the end of its audio a prompt over silence is the same for every question about a recording of
that length: the chat template's opening, then silence. So its keys and values are kept, and only
the text behind the audio is read for each question.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache
from lens_audio.model.shared_prefix import Continuations, joined
from lens_audio.steering.sides import Silences, silent_side

KEPT = 4  # beginnings; batches are of like length, and 30 s of the 7B model in bfloat16 is 400 MB


@dataclass(frozen=True, eq=False)
class Read:
    """A batch after one forward of the decoder, at each row's last prompt position T.

    Steering adds to the final representation alone, which nothing attends to: so all of this is
    the same under every steering, and so are the keys and values of whatever is generated.
    """

    past: KeyValueCache
    final: Float[Tensor, "row d_model"]  # h_T, the last layer's resid_post


class SilentBeginnings:
    """Keys and values of prompts over silence up to the end of the audio; the oldest go first."""

    def __init__(self) -> None:
        self.silences = Silences()
        self._kept: OrderedDict[Any, KeyValueCache] = OrderedDict()

    def of(self, model: HookedAudioTransformer, prompt: AudioPrompt, depth: int) -> KeyValueCache:
        """The first `depth` layers of a prompt of one row that ends where its audio does."""
        key = (depth, *_identity(prompt))
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
        quiet = silent_side(model, prompt, told, self.silences)
        past = KeyValueCache(depth)
        model(quiet, start_at_layer=0, stop_at_layer=depth, past_kv_cache=past)
        return past


def keep_last(
    layers: Sequence[int],
) -> tuple[list[Float[Tensor, "row d_model"]], list[tuple[str, Callable]]]:
    """What the last position is after each of these layers, and the hooks that keep it."""
    kept: list[Tensor] = []

    def keep(resid: Tensor, hook: Any) -> None:
        kept.append(resid[:, -1].clone())  # a copy lets go of the other positions

    return kept, [(f"blocks.{layer}.hook_resid_post", keep) for layer in layers]


@torch.no_grad()
def read_silence(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    layers: Sequence[int],
    beginnings: SilentBeginnings,
    to_the_end: bool,
) -> tuple[Read | None, list[Float[Tensor, "row d_model"]]]:
    """A left-padded batch of one clip a row over silence, at its last position.

    Returns:
        What can be continued, if it was read to the end; and the residual stream after `layers`.
    """
    depth = model.cfg.n_layers if to_the_end else max(layers) + 1
    begun = [_beginning(prompt, row) for row in range(len(prompt))]
    alike: dict[tuple[int, ...], list[int]] = {}
    for row, beginning in enumerate(begun):
        alike.setdefault(_identity(beginning), []).append(row)
    parts = [
        _read_behind(model, prompt, rows, layers, beginnings.of(model, begun[rows[0]], depth))
        for rows in alike.values()
    ]
    order = torch.tensor([row for rows in alike.values() for row in rows]).argsort()
    order = order.to(model.device)
    of_layers = zip(*(part.kept for part in parts), strict=True)
    residuals = [torch.cat(of_layer)[order] for of_layer in of_layers]
    if not to_the_end:
        return None, residuals
    final = torch.cat([part.final for part in parts])[order]
    return Read(joined([part.past for part in parts], order), final), residuals


@dataclass
class _Group:
    """Rows whose beginning is the same, read to some depth."""

    past: Continuations
    final: Tensor
    kept: list[Tensor]


def _read_behind(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    rows: list[int],
    layers: Sequence[int],
    beginning: KeyValueCache,
) -> _Group:
    """Read what stands behind the audio of these rows, which begin alike."""
    depth, past = len(beginning.entries), Continuations.of(beginning)
    past.select(torch.zeros(len(rows), dtype=torch.long, device=model.device))
    if depth < model.cfg.n_layers:
        past.freeze()  # nothing will be continued
    behind = prompt.audio_mask[rows].flip(1).cumsum(1).flip(1) == 0
    first = int(behind.any(0).long().argmax())
    kept, hooks = keep_last(layers)
    told = model.embed_text(prompt.tokens[rows], prompt.audio_mask[rows])[:, first:]
    with model.hooks(fwd_hooks=hooks):
        resid = model(
            told, start_at_layer=0, attention_mask=behind[:, first:], past_kv_cache=past,
            stop_at_layer=depth,
        )  # fmt: skip
    return _Group(past, resid[:, -1].clone(), kept)


def _beginning(prompt: AudioPrompt, row: int) -> AudioPrompt:
    """One row without its padding, up to the end of its audio."""
    start = int(prompt.attention_mask[row].long().argmax())
    end = int(prompt.audio_positions(row)[-1]) + 1
    assert prompt.mel is not None
    assert prompt.mel_lengths is not None
    one = slice(row, row + 1)
    return replace(
        prompt,
        tokens=prompt.tokens[one, start:end],
        attention_mask=prompt.attention_mask[one, start:end],
        audio_mask=prompt.audio_mask[one, start:end],
        mel=prompt.mel[one],
        mel_lengths=prompt.mel_lengths[one],
        waveforms=prompt.waveforms and prompt.waveforms[one],
    )


def _identity(beginning: AudioPrompt) -> tuple[int, ...]:
    """What a beginning over silence depends on."""
    assert beginning.mel_lengths is not None
    return int(beginning.mel_lengths[0]), *beginning.tokens[0].tolist()
