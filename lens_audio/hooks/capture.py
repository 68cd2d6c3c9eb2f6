"""The hook function that reads activations and leaves them as they are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lens_audio.fingerprint import carrying
from lens_audio.hooks.positions import select_positions
from lens_audio.hooks.selection import Hook, one_of
from lens_audio.model.hook_point import only_reads
from lens_audio.sites import Layers, Positions, Site, check_positions, row_indices


def capture(
    store: dict[str, Tensor],
    site: str,
    *,
    layer: Layers = None,
    layers: Layers = None,
    positions: Positions = None,
) -> list[Hook]:
    """Put activations into `store` under their hook names, later steps joined along the positions.

    With `positions` only those are kept, in order: [batch, n_selected, …] (of patterns and scores,
    those queries: [batch, head, n_selected, key]). They are detached. Where keys grow from step to
    step, earlier patterns are filled up with zeros, scores with -inf.

    Args:
        store: filled as the model runs; a new sequence replaces the one before. Of a sequence that
            is continued again from an earlier position, what came after that is replaced.
        site, layer, layers, positions: as in `patch`.

    Raises:
        ValueError: as in `patch`; when the hook runs, for rows that select different counts, and
            for a sequence that is continued after another has replaced it in the store.
    """
    where = Site.of(site)
    positions = check_positions(positions, where)
    axis = where.position_axis
    sequences: dict[str, Any] = {}  # that the store holds

    @only_reads
    def function(activation: Tensor, hook: Any) -> None:
        kept = activation.detach()
        if getattr(hook, "may_be_edited", True):  # by a hook that acts after this one
            kept = kept.clone()
        if positions is not None:
            selected = select_positions(positions, kept.shape[axis], hook, kept.device)
            kept = _take(kept, selected, axis)
        name, info = where.name_at(hook), getattr(hook, "forward_info", None)
        if info is not None and info.n_past and name in store:
            if sequences.get(name, info.sequence) is not info.sequence:
                raise ValueError(
                    f"the store holds {name} of another sequence than this run continues; capture "
                    "each sequence into a store of its own"
                )
            selected = select_positions(positions, info.n_total, hook, kept.device)
            n_before = int(selected[0, : info.n_past].sum())
            before = store[name].narrow(axis, 0, min(n_before, store[name].shape[axis]))
            if where.is_pattern:
                fill = 0.0 if where.last_name == "hook_pattern" else -torch.inf
                before = F.pad(before, (0, kept.shape[-1] - before.shape[-1]), value=fill)
            kept = torch.cat([before, kept], dim=axis)
        store[name] = kept
        if info is not None:
            sequences[name] = info.sequence

    carrying(function, what="capture", site=where.template, positions=positions)
    return [(name, function) for name in where.names(one_of(layer, layers))]


def _take(x: Tensor, selected: Tensor, axis: int) -> Tensor:
    """The selected positions of each row."""
    places = row_indices(selected)
    if len(places) == 1:
        return x.index_select(axis, places[0])
    rows = zip(x.split(1), places, strict=True)
    return torch.cat([row.index_select(axis, some) for row, some in rows])
