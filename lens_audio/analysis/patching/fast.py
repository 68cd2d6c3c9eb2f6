"""The fast engine of activation patching: only what a patch changes is computed again.

A patch at layer l whose first position is p leaves layers before l, and positions before p, as they
were. Cells with the same p are therefore run together, layer by layer: at each layer the cells that
patch it join the batch, starting from the base run's residual stream at positions p and on, while
attention reads the base run's keys and values before p, stored once for all cells.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.patching.alignment import Alignment
from lens_audio.analysis.patching.cells import Cell
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import collecting, layer_names
from lens_audio.inputs import AudioPrompt
from lens_audio.model.attention_context import AttentionContext
from lens_audio.model.clips import window_numbers
from lens_audio.model.shared_prefix import SharedPrefix
from lens_audio.sites import Site

LEAST_BATCH_TOKENS = 4096  # short prompts share a batch; fewer would leave a machine idle

Done = tuple[Cell, Float[Tensor, "example last d_vocab"]]


@dataclass
class BaseRun:
    """What the unpatched run leaves behind, by layer, from the first layer that a cell patches on."""

    resid_pre: dict[
        int, Float[Tensor, "example later d_model"]
    ]  # from the first patched position on
    keys: dict[int, Float[Tensor, "example pos kv_head d_head"]]
    values: dict[int, Float[Tensor, "example pos kv_head d_head"]]
    encoder_resid_pre: dict[int, Float[Tensor, "audio frame d_audio"]]  # for the encoder's sites


class FastPatcher:
    """Runs cells of one site, one base prompt and one source prompt."""

    def __init__(
        self,
        model: HookedAudioTransformer,
        site: Site,
        base: AudioPrompt,
        source: AudioPrompt,
        cells: list[Cell],
        n_last: int = 1,
        align: Alignment | None = None,
    ) -> None:
        """Runs both prompts; `n_last` is how many last positions' logits are kept."""
        self.model, self.site, self.base = model, site, base
        self.n_examples, self.length = base.tokens.shape
        self.n_last = n_last
        self.batch_tokens = max(base.tokens.numel(), LEAST_BATCH_TOKENS)
        self.mask = base.attention_mask.to(model.device)
        self.layers = sorted({cell.layer for cell in cells})
        self.first = self._first_position(cells)
        self.source_cache, self.source_logits = self._run_source(source, align)
        self.base_run, self.base_logits = self._run_base()

    def run(self, cells: list[Cell], batch_tokens: int | None = None) -> Iterator[Done]:
        """The last positions' logits of every cell, in whatever order is quickest.

        Args:
            batch_tokens: positions computed at once, at most.
        """
        self.batch_tokens = batch_tokens or self.batch_tokens
        by_first = sorted(cells, key=lambda cell: (self._first_position([cell]), cell.layer))
        for first, group in groupby(by_first, key=lambda cell: self._first_position([cell])):
            waiting = list(group)
            while waiting:
                n_cells = max(1, self.batch_tokens // (self.n_examples * self._positions(first)))
                batch = waiting[:n_cells]
                try:
                    logits = self._run_batch(first, batch)
                except (RuntimeError, MemoryError) as error:
                    if len(batch) == 1 or not is_out_of_memory(error):
                        raise
                    self.batch_tokens = self._halved(first, len(batch))
                    continue
                n_before = self.n_last - logits.shape[1]  # positions that no patch reaches
                before = self.base_logits[:, :n_before]
                for cell, new in zip(batch, logits.unflatten(0, (len(batch), -1)), strict=True):
                    yield cell, torch.cat([before, new], dim=1)
                waiting = waiting[n_cells:]

    def _halved(self, first: int, n_cells: int) -> int:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return (n_cells // 2) * self.n_examples * self._positions(first)

    def _positions(self, first: int) -> int:
        """Positions computed for a cell, the encoder's included."""
        if not self.site.in_encoder:
            return self.length - first
        assert self.base.mel is not None
        return self.length - first + self.base.timing.n_frames(self.base.mel.shape[2])

    def _first_position(self, cells: list[Cell]) -> int:
        """The first position of the decoder that a cell changes; the encoder attends both ways."""
        if self.site.in_encoder:
            return int(self.base.audio_mask.any(0).nonzero()[0])
        return min(cell.first_position for cell in cells)

    def _run_source(
        self, prompt: AudioPrompt, align: Alignment | None
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The activations that patches come from, at the base's positions from the first patched
        one on.
        """
        cut = 0 if self.site.in_encoder else self.first

        def take(activation: Tensor) -> Tensor:
            aligned = activation if align is None else align(activation)
            return from_position(aligned, cut, self.site.position_axis)

        names = {layer: self.site.in_layer(layer) for layer in self.layers}
        with collecting(self.model, names.values(), take) as kept:
            logits = self.model(prompt, logits_to_keep=self.n_last)
        return {layer: kept[name] for layer, name in names.items()}, logits

    def _run_base(self) -> tuple[BaseRun, Tensor]:
        start = 0 if self.site.in_encoder else self.layers[0]
        layers = range(start, self.model.cfg.n_layers)
        sites = ("hook_resid_pre", "attn.hook_rot_k", "attn.hook_v")
        resid_pre, keys, values = (layer_names(site, layers) for site in sites)
        of_encoder = self.layers if self.site.in_encoder else []
        in_encoder = [f"audio_encoder.{name}" for name in layer_names("hook_resid_pre", of_encoder)]
        with (
            collecting(self.model, resid_pre, lambda x: from_position(x, self.first)) as resid,
            collecting(self.model, [*keys, *values, *in_encoder]) as whole,
        ):
            logits = self.model(self.base, logits_to_keep=self.n_last)
        run = BaseRun(
            {layer: resid[name] for layer, name in zip(layers, resid_pre, strict=True)},
            {layer: whole[name] for layer, name in zip(layers, keys, strict=True)},
            {layer: whole[name] for layer, name in zip(layers, values, strict=True)},
            {layer: whole[name] for layer, name in zip(of_encoder, in_encoder, strict=True)},
        )
        return run, logits

    def _run_batch(self, first: int, cells: list[Cell]) -> Float[Tensor, "row new d_vocab"]:
        """Logits of the last positions from the first on that is computed.

        Rows are cells, then examples: row r belongs to cell r // n_examples.
        """
        with self.model.lock:  # for the blocks are run one by one
            return self._run_rows(first, cells)

    def _run_rows(self, first: int, cells: list[Cell]) -> Float[Tensor, "row new d_vocab"]:
        if self.site.in_encoder:
            rows, start = self._encoder_rows(first, cells), 0
        else:
            rows, start = None, cells[0].layer
        context = None
        for layer in range(start, self.model.cfg.n_layers):
            joining = [] if self.site.in_encoder else [c for c in cells if c.layer == layer]
            if joining:
                new = self.base_run.resid_pre[layer][:, first - self.first :]
                new = new.repeat(len(joining), 1, 1)
                rows = new if rows is None else torch.cat([rows, new])
                context = None
            assert rows is not None
            context = context or self._context(rows, first)
            patching = self._patching(layer, joining, first) if joining else nullcontext()
            with patching:
                rows = self.model.blocks[layer](rows, context, self._prefix(layer, first))
        assert rows is not None
        return self.model.logits_of(rows[:, -self.n_last :])

    def _context(self, rows: Tensor, first: int) -> AttentionContext:
        copies = len(rows) // self.n_examples
        mask = None if bool(self.mask.all()) else self.mask.repeat(copies, 1)
        return AttentionContext.of(self.model.cfg, rows, mask, n_past=first)

    def _prefix(self, layer: int, first: int) -> SharedPrefix | None:
        if first == 0:
            return None
        run = self.base_run
        return SharedPrefix(run.keys[layer][:, :first], run.values[layer][:, :first])

    def _patching(self, layer: int, cells: list[Cell], first: int) -> Any:
        """A context in which the last rows of the batch, those of `cells`, are patched at `layer`."""
        source, axis = self.source_cache[layer], self.site.position_axis
        source = source.narrow(axis, first - self.first, self.length - first)
        masks = torch.stack([c.positions.expand(self.n_examples, -1)[:, first:] for c in cells])
        selected = self._entries(masks.flatten(0, 1), cells, source)

        def patch(activation: Tensor, hook: Any) -> None:
            tail = activation[-len(selected) :]
            new = source.repeat(len(cells), *[1] * (source.ndim - 1)).to(tail)
            tail.copy_(torch.where(selected.to(tail.device), new, tail))

        return self.model.hooks(fwd_hooks=[(self.site.in_layer(layer), patch)])

    def _entries(self, masks: Tensor, cells: list[Cell], source: Tensor) -> Tensor:
        """What each row patches, broadcastable to its activations."""
        axis, n_axes = self.site.position_axis, source.ndim
        shape = [1] * n_axes
        shape[0], shape[axis] = masks.shape
        selected = masks.reshape(shape)
        head_axis, neuron_axis = self.site.head_axis, self.site.neuron_axis
        part_axis = neuron_axis if head_axis is None else head_axis
        parts = [cell.part for cell in cells if cell.part is not None]
        if part_axis is None or not parts:
            return selected
        chosen = torch.zeros(len(cells), source.shape[part_axis], dtype=torch.bool)
        for row, part in zip(chosen, parts, strict=True):
            row[list(part)] = True
        shape = [1] * n_axes
        shape[0], shape[part_axis] = len(masks), chosen.shape[1]
        rows_a_cell = len(masks) // len(cells)  # examples; in the encoder, clips
        return selected & chosen.repeat_interleave(rows_a_cell, dim=0).reshape(shape)

    def _encoder_rows(self, first: int, cells: list[Cell]) -> Float[Tensor, "row pos d_model"]:
        """The decoder's residual streams over the audio of a patched encoder."""
        assert self.base.mel_lengths is not None
        lengths = self.base.mel_lengths.to(self.model.device)
        windows = window_numbers(self.base.audio_mask, lengths, self.model.cfg.audio)
        rows = []
        for cell in cells:
            resid = self.base_run.encoder_resid_pre[cell.layer].clone()
            with self._patching_encoder(cell):
                encoded = self.model.audio_encoder.from_layer(cell.layer, resid, lengths)
            embed = self.model.audio_projector(encoded, windows)
            places = self.base.audio_mask.to(resid.device)[:, first:]
            rest = self.base_run.resid_pre[0][:, first - self.first :]
            rows.append(self.model.write_audio(rest, embed, places, lengths))
        return torch.cat(rows)

    def _patching_encoder(self, cell: Cell) -> Any:
        source = self.source_cache[cell.layer]
        selected = self._entries(cell.positions.expand(len(source), -1), [cell], source)

        def patch(activation: Tensor, hook: Any) -> Tensor:
            return torch.where(selected.to(activation.device), source, activation)

        return self.model.hooks(fwd_hooks=[(self.site.in_layer(cell.layer), patch)])


def from_position(activation: Tensor, first: int, axis: int = 1) -> Tensor:
    """The positions from one on; a copy, which lets go of the rest, unless that is all of them."""
    kept = activation.narrow(axis, first, activation.shape[axis] - first)
    return kept.clone() if first else kept


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might have worked; on a CPU, torch says so in words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
