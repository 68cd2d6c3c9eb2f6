"""Exact edge patching: one receiver's input gets what one sender wrote in the corrupted run.

All before the receiver is as in the clean run, so a run begins at the receiver's layer, from the
clean residual stream there; all after it is computed again. Rows of a batch are edges.

Source: Goldowsky-Dill et al., "Localizing Model Behavior with Path Patching", arXiv 2304.05969: the
paths of one edge.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.analysis.circuits.nodes import LETTERS
from lens_audio.analysis.circuits.runs import PairRuns
from lens_audio.analysis.patching.fast import LEAST_BATCH_TOKENS
from lens_audio.model.attention import project_to_heads


@torch.no_grad()
def exact(
    runs: PairRuns,
    wanted: Bool[Tensor, "sender receiver group"],
    batch_tokens: int | None = None,
    amount: float = 1.0,
) -> Float[Tensor, "example sender receiver group"]:
    """By how much the metric changes from the clean run, of the edges wanted; 0 elsewhere.

    Nodes are whole, and the edges of a group are patched at its positions.

    Args:
        batch_tokens: positions computed at once, at most; as many as `patching.sweep` by default.
        amount: which part of the difference between corrupted and clean is patched in.
    """
    clean, written, logits = runs.clean()
    applied = runs.applied(logits)
    base = applied(logits)
    scores = base.new_zeros(len(base), *wanted.shape)
    n_rows = max(1, (batch_tokens or LEAST_BATCH_TOKENS) // runs.mask.numel())
    every = runs.corrupted.minus(written, runs.mask)
    for group, positions in enumerate(runs.groups):
        differences = every.at(positions)
        for stage, letter in _inputs(runs.nodes.last_stage):
            columns = runs.nodes.receivers_of(stage, letter)
            for edges in wanted[:, columns, group].nonzero().split(n_rows):
                if not len(edges):
                    continue
                senders, heads = edges.T
                distinct, of_row = senders.unique(return_inverse=True)
                moved = amount * differences.of_senders(distinct.tolist()).transpose(0, 1)
                patched = _patched(runs, clean, stage, letter, moved, of_row, heads)
                effects = runs.values(applied, patched) - base
                scores[:, senders, columns.start + heads, group] = effects.T
    return scores


def _inputs(last_stage: int) -> Iterator[tuple[int, str | None]]:
    """Every stage that reads, and of heads which input."""
    for stage in range(1, last_stage + 1):
        for letter in LETTERS if stage % 2 and stage < last_stage else (None,):
            yield stage, letter


def _patched(
    runs: PairRuns,
    clean: dict[str, Tensor],
    stage: int,
    letter: str | None,
    moved: Float[Tensor, "sender batch pos d_model"],
    of_row: Int[Tensor, " edge"],
    heads: Int[Tensor, " edge"],
) -> Float[Tensor, "row last d_vocab"]:
    """The logits of every edge, each of all examples.

    Args:
        moved: what is added to the input, of each sender.
        of_row: of each edge its sender in `moved`. heads: the head of each that reads it.
    """
    if stage == runs.nodes.last_stage:
        resid = (clean[runs.final_name] + moved).flatten(0, 1)
        return runs.from_layer(runs.nodes.n_layers, resid)[1]
    layer = (stage - 1) // 2
    block, hook = runs.blocks[layer], partial(runs.nodes.hook, layer)
    if letter is None:
        resid = clean[hook("hook_resid_mid")]
        out = block.mlp(block.ln2((resid + moved).flatten(0, 1))).unflatten(0, moved.shape[:2])
        return runs.from_layer(layer + 1, (resid + out).flatten(0, 1))[1]
    resid, linear = clean[hook("hook_resid_pre")], getattr(block.attn, f"{letter}_proj")
    n_heads = runs.nodes.n_heads if letter == "q" else runs.nodes.kv_heads
    read = project_to_heads(linear, block.ln1((resid + moved).flatten(0, 1)), n_heads)
    read = read.unflatten(0, moved.shape[:2])[of_row, ..., heads, :]  # [edge, batch, pos, d_head]

    def patch(activation: Tensor, hook: Any) -> Tensor:
        by_edge = activation.unflatten(0, (len(heads), -1))
        by_edge[torch.arange(len(heads)), :, :, heads] = read
        return by_edge.flatten(0, 1)

    rows = resid.repeat(len(heads), 1, 1)
    return runs.from_layer(layer, rows, fwd_hooks=[(hook(f"attn.hook_{letter}"), patch)])[1]
