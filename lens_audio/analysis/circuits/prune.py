"""Which edges to keep: the largest, those on the way up from the logits, or the most influential."""

import heapq

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.circuits.nodes import Nodes

Edges = Bool[Tensor, "sender receiver"]
Scores = Float[Tensor, "sender receiver"]


def largest(scores: Scores, candidates: Edges, n: int) -> Edges:
    """The n edges of largest size, of equal ones the earlier."""
    sizes = scores.abs().masked_fill(~candidates, -1.0).flatten()
    kept = torch.zeros_like(sizes, dtype=torch.bool)
    kept[sizes.argsort(descending=True, stable=True)[:n]] = True
    return kept.view_as(candidates) & candidates


def greedy(nodes: Nodes, scores: Scores, candidates: Edges, n: int) -> Edges:
    """The largest edge into the logits, then again and again the largest into any node that an edge
    already leads from, up to n; every edge lies on a way to the logits.

    Source: Hanna, Pezzelle, Belinkov, arXiv 2403.17806, section 3 (their greedy search).
    """
    sizes = scores.abs().tolist()
    waiting: list[tuple[float, int, int]] = []
    opened: set[int] = set()

    def open_inputs(node: str) -> None:
        for receiver in nodes.inputs_of[node]:
            if receiver not in opened:
                opened.add(receiver)
                for sender in candidates[:, receiver].nonzero().flatten().tolist():
                    heapq.heappush(waiting, (-sizes[sender][receiver], sender, receiver))

    kept = torch.zeros_like(candidates)
    open_inputs(nodes.end)
    for _ in range(n):
        if not waiting:
            break
        _, sender, receiver = heapq.heappop(waiting)
        kept[sender, receiver] = True
        open_inputs(nodes.senders[sender])
    return kept


def influence(nodes: Nodes, scores: Scores) -> Scores:
    """Of each edge the share of the logits that passes through it, by sizes of scores.

    The logits have an influence of 1. What a node has, its incoming edges share in proportion to
    their sizes, and a sender has the sum over the edges that leave it. A key or value edge counts
    for each head that reads it, by an equal part of its size. So the edges out of `embed` have 1 in
    all. In the spirit of the pruning of attribution graphs: Ameisen et al., "Circuit Tracing:
    Revealing Computational Graphs in Language Models" (2025); their nodes are features.
    """
    sizes = scores.abs().double()
    n_readers = torch.zeros(len(nodes.receivers), dtype=torch.float64)
    for inputs in nodes.inputs_of.values():
        n_readers[inputs] += 1
    found = torch.zeros_like(sizes)
    for node in reversed((*nodes.senders, nodes.end)):
        inputs = nodes.inputs_of[node]
        if not inputs:
            continue
        own = 1.0 if node == nodes.end else float(found[nodes.senders.index(node)].sum())
        read = sizes[:, inputs] / n_readers[inputs]
        total = float(read.sum())
        if total:
            found[:, inputs] += own * read / total
    return found


def most_influential(nodes: Nodes, scores: Scores, candidates: Edges, share: float | int) -> Edges:
    """The fewest edges that have this share of all influence."""
    of_edges = influence(nodes, scores * candidates).flatten()
    order = of_edges.argsort(descending=True, stable=True)
    cumulative = of_edges[order].cumsum(0)
    before = torch.cat([cumulative.new_zeros(1), cumulative[:-1]])
    kept = torch.zeros_like(of_edges, dtype=torch.bool)
    kept[order] = before < share * cumulative[-1] * (1 - 1e-12)
    return kept.view_as(candidates) & candidates
