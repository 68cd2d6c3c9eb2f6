"""Hook functions on attention: cut it off, or turn it up and down."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.fingerprint import carrying
from lens_audio.hooks.positions import along, select_entries, select_positions
from lens_audio.hooks.selection import Hook, one_of
from lens_audio.model.hook_point import only_reads
from lens_audio.sites import Heads, Layers, Positions, Site, check_positions, heads_by_layer


def knock_out_attention(
    *,
    keys: Positions,
    queries: Positions = None,
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
) -> list[Hook]:
    """Forbid queries to attend to keys; the rest of each row is renormalised.

    A query that may attend to nothing at all then reads nothing (its z is zero).
    Source: Geva et al., arXiv 2304.14767 (attention knockout).

    Args:
        keys, queries: positions of the sequence, as in `patch`; all queries by default.
        layer, layers, heads: as in `patch`.

    Raises:
        ValueError: as in `patch`.
    """
    return scale_attention(
        keys=keys, factor=0.0, queries=queries, layer=layer, layers=layers, heads=heads
    )


def scale_attention(
    *,
    keys: Positions,
    factor: float,
    queries: Positions = None,
    layer: Layers = None,
    layers: Layers = None,
    heads: Heads = None,
) -> list[Hook]:
    """Multiply the attention to some keys by `factor` before each row is normalised again.

    That is log(factor) added to the scores; rows still sum to one.

    Args:
        factor: 0 knocks out, 1 changes nothing, more than 1 turns up.
        keys, queries, layer, layers, heads: as in `knock_out_attention`.

    Raises:
        ValueError: for a factor that is negative, infinite or NaN; otherwise as in `patch`.
    """
    if not (math.isfinite(factor) and factor >= 0):
        raise ValueError(f"factor must be a finite number of at least 0, not {factor}")
    site = Site.of("attn_scores")
    keys, queries = check_positions(keys, site), check_positions(queries, site)
    shift = math.log(factor) if factor > 0 else -math.inf
    pairs: list[Hook] = []
    for some_layers, some_heads in heads_by_layer(one_of(layer, layers), heads):

        @only_reads
        def function(
            scores: Float[Tensor, "batch head query key"],
            hook: Any,
            heads: list[int] | None = some_heads,
        ) -> Float[Tensor, "batch head query key"]:
            rows = select_entries(site, scores, hook, heads, queries)
            columns = select_positions(keys, scores.shape[3], hook, scores.device)
            return torch.where(rows & along(columns, 3, scores), scores + shift, scores)

        carrying(function, what="scale attention", factor=factor, heads=some_heads,
                 queries=queries, keys=keys)  # fmt: skip
        pairs += [(name, function) for name in site.names(some_layers)]
    return pairs
