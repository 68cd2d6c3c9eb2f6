"""Does a circuit do what the model does? Runs in which only its edges carry what they carry.

    faithfulness(C) = (m(C) - m(∅)) / (m(M) - m(∅))

m(C) is the mean metric of the circuit's run, m(M) of the model itself, m(∅) of no edge at all.

Sources: Hanna, Pezzelle, Belinkov, arXiv 2403.17806, equation 2; Mueller et al., "MIB: A Mechanistic
Interpretability Benchmark", arXiv 2504.13151 (CPR and CMD).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.circuits.encoder import RUNS
from lens_audio.analysis.circuits.graph import Graph
from lens_audio.analysis.circuits.nodes import LETTERS, Nodes
from lens_audio.analysis.circuits.pairs import Pairs, PairWithMetric, with_metrics
from lens_audio.analysis.circuits.runs import PairRuns, Written, plain, written_by_heads
from lens_audio.analysis.metrics import MetricFunction
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import collecting
from lens_audio.model.shown import bias_or_zeros
from lens_audio.stats import BOUNDS, N_RESAMPLES, Interval

RESTS = ("corrupted", "mean", "zero", "resampled")
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the edges, as in MIB


class CircuitResult(NamedTuple):
    """The metric of a run in which only some heads, nodes or edges were clean."""

    metric: Float[Tensor, " example"]
    whole: Float[Tensor, " example"]  # the model itself
    none: Float[Tensor, " example"]  # nothing clean

    def __repr__(self) -> str:
        mean, n = float(self.metric.mean()), len(self.metric)
        return f"CircuitResult(metric {mean:.4g}, faithfulness {self.faithfulness:.3f}, n {n})"

    @property
    def faithfulness(self) -> float:
        """(m - m(∅)) / (m(M) - m(∅)), of means over the examples; NaN where that is 0 / 0."""
        gap = float(self.whole.mean() - self.none.mean())
        return float(self.metric.mean() - self.none.mean()) / gap if gap else float("nan")


@torch.no_grad()
def circuit_metric(
    model: HookedAudioTransformer,
    pairs: Pairs,
    graph: Graph,
    metric: MetricFunction | None = None,
    rest: str = "corrupted",
    *,
    seed: int = 0,
) -> CircuitResult:
    """The metric of a run in which only the edges that a graph keeps carry what the run makes.

    Each input of each node is the sum of what earlier nodes write: over edges that are kept as
    they do in this very run, over the others as `rest` says:

    - "corrupted": what they wrote in the corrupted run.
    - "mean": the mean of what they write on the clean prompts, over all real positions and examples.
    - "zero": nothing. The bias of the attention's output, which is no node's, stays.
    - "resampled": what they wrote on the clean prompt of another example of the batch, drawn at
      random; its rows must have their padding and their audio at the same positions.

    Of a graph of the encoder (`edges` with part="encoder") only these edges differ from the model: the
    decoder hears what they make of the sound, under the clean prompt's words.

    Args:
        pairs, metric: as of `edges`. For "mean" the pairs are gone through twice, so not those of a
            generator.

    Returns:
        The metric by example, of the circuit, of the model, and of no edge at all.

    Raises:
        ValueError: for another `rest`, a graph of another model's nodes, a single row to resample
            from, or what `edges` refuses.
    """
    (found,) = circuit_metrics(model, pairs, [graph], metric, rest, seed=seed)
    return found


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve:
    """Faithfulness against size. Intervals are over the pairs, on the same resamples for all sizes.

    `table` has the columns share (of all edges), n_edges, faithfulness, low and high. `cpr`, the
    area under the curve of faithfulness f over shares, is high for a circuit that has much of the
    model's metric, or more; `cmd`, the area under |1 - f|, is low for one that does as the model does.
    """

    table: pd.DataFrame
    cpr: Interval
    cmd: Interval

    def __repr__(self) -> str:
        return f"FaithfulnessCurve({len(self.table)} sizes; CPR {self.cpr}; CMD {self.cmd})"


@torch.no_grad()
def faithfulness_curve(
    model: HookedAudioTransformer,
    pairs: Pairs,
    graph: Graph,
    metric: MetricFunction | None = None,
    *,
    shares: Sequence[float | int] = SHARES,
    choose: str = "top",
    rest: str = "corrupted",
    seed: int = 0,
) -> FaithfulnessCurve:
    """How faithful circuits of several sizes are, and the integrated measures of MIB.

    Judge on other pairs than those that the scores are of: what fits those best need not hold for others.

    Args:
        graph: the scores; circuits are chosen among the edges that it keeps.
        shares: of all edges, in ascending order; the areas are by trapezoids between them.
        choose: "top" or "greedy", as `Graph`'s.
        rest, seed: as of `circuit_metric`; the seed is of the bootstrap, too.

    Raises:
        ValueError: for other shares or another choice, fewer than two examples, or what
            `circuit_metric` refuses.
    """
    if choose not in ("top", "greedy"):
        raise ValueError(f"choose must be 'top' or 'greedy', not {choose!r}")
    ascending = all(a < b for a, b in pairwise(shares))
    if len(shares) < 2 or not ascending or shares[0] < 0 or shares[-1] > 1:
        raise ValueError(f"shares must be two or more, ascending, from 0 to 1; not {shares}")
    sizes = [round(share * len(graph)) for share in shares]
    circuits = [getattr(graph, choose)(size) for size in sizes]
    results = circuit_metrics(model, pairs, circuits, metric, rest, seed=seed)
    metrics = torch.stack([found.metric for found in results]).double().numpy()
    _, whole, none = (part.double().numpy() for part in results[0])
    n = len(whole)
    if n < 2:
        raise ValueError("an interval over examples needs at least two of them, not 1")
    rng = np.random.default_rng(seed)
    drawn = [np.arange(n), *rng.integers(n, size=(N_RESAMPLES, n))]
    curves = np.stack(
        [
            (metrics[:, some].mean(1) - none[some].mean())
            / (whole[some].mean() - none[some].mean())
            for some in drawn
        ]
    )  # [draw, size]; the first is of all examples
    low, high = np.quantile(curves[1:], BOUNDS, axis=0)
    table = pd.DataFrame(
        {
            "share": list(shares),
            "n_edges": [len(circuit) for circuit in circuits],
            "faithfulness": curves[0],
            "low": low,
            "high": high,
        }
    )
    return FaithfulnessCurve(table, _area(curves, shares), _area(np.abs(1 - curves), shares))


def _area(curves: Float[np.ndarray, "draw size"], shares: Sequence[float | int]) -> Interval:
    """Under the first curve; the others give the interval."""
    value, *drawn = np.trapezoid(curves, shares, axis=1)
    low, high = np.quantile(drawn, BOUNDS)
    return Interval(float(value), float(low), float(high))


@torch.no_grad()
def circuit_metrics(
    model: HookedAudioTransformer,
    pairs: Pairs,
    graphs: Sequence[Graph],
    metric: MetricFunction | None = None,
    rest: str = "corrupted",
    *,
    seed: int = 0,
) -> list[CircuitResult]:
    """`circuit_metric` of several circuits of the same nodes: the model is run once for all of them."""
    if rest not in RESTS:
        raise ValueError(f"rest must be one of {', '.join(RESTS)}, not {rest!r}")
    nodes = graphs[0].nodes
    of_model = Nodes.of(model.cfg, nodes.part)
    if nodes.whole != of_model:
        raise ValueError(f"the graph is of {nodes.whole}, and the model has {of_model}")
    if rest == "mean":
        given: Any = list(with_metrics(pairs, metric))
        means = _means(model, given, nodes)
    else:
        given, means = with_metrics(pairs, metric), None
    generator = torch.Generator().manual_seed(seed)
    kept = [torch.zeros_like(nodes.is_edge), *(graph.kept for graph in graphs)]
    found: list[list[Tensor]] = []
    for pair, own in given:
        with plain(model):
            runs = RUNS[nodes.part].of(model, pair, own, nodes)
            _, written, logits = runs.clean()
            applied = runs.applied(logits)
            others = _others(runs, written, rest, means, generator)
            none, *ran = (applied(_run(runs, others, nodes.split(some))) for some in kept)
            found.append([applied(logits), none, *ran])
    whole, none, *circuits = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return [CircuitResult(one, whole, none) for one in circuits]


def _others(
    runs: PairRuns,
    written: Written,
    rest: str,
    means: Written | None,
    generator: torch.Generator,
) -> Written:
    """What senders write over edges that are not kept."""
    if rest == "corrupted":
        return runs.corrupted
    if rest == "zero":
        return written.each(torch.zeros_like)
    if means is not None:
        return means.each(lambda mean: mean.expand(*runs.mask.shape, *mean.shape[2:]))
    n_rows = len(runs.mask)
    if n_rows < 2:
        raise ValueError("one row has no other to resample from; give batches of two or more")
    if not bool((runs.mask == runs.mask[:1]).all()):
        raise ValueError(
            "the rows have padding at different positions, so what one wrote does not fit another; "
            "give batches of prompts of one length, or rest='mean'"
        )
    shift = int(torch.randint(1, n_rows, (1,), generator=generator))
    return written.each(lambda part: part.roll(shift, 0))


def _means(model: HookedAudioTransformer, given: Sequence[PairWithMetric], nodes: Nodes) -> Written:
    """Of what senders write on the clean prompts, over all real positions: [1, 1, …]."""
    n_positions = 0
    total: Written | None = None
    for pair, metric in given:
        with plain(model):
            runs = RUNS[nodes.part].of(model, pair, metric, nodes)
            written = runs.clean()[1]
        n_positions += int(runs.mask.sum())
        summed = written.each(lambda part, real=runs.mask: part[real].double().sum(0)[None, None])
        total = summed if total is None else total.each(torch.add, summed)
    assert total is not None
    return total.each(lambda part: (part / n_positions).to(runs.embed.dtype))


def _run(
    runs: PairRuns, others: Written, kept: Bool[Tensor, "sender receiver group"]
) -> Float[Tensor, "batch last d_vocab"]:
    """The logits of a run in which only edges that are kept carry what it makes.

    What a node reads is the residual stream of what all others write, and for each edge that is
    kept the difference that this run makes to it.
    """
    nodes = runs.nodes
    moved: list[Tensor] = [(runs.embed - others.embed)[:, None]]  # by stage
    stream = others.embed
    share = kept.to(stream.device, stream.dtype)

    def read(stage: int, letter: str | None = None) -> Float[Tensor, "batch pos receiver d_model"]:
        columns = nodes.receivers_of(stage, letter)
        n = columns.stop - columns.start
        total = stream[:, :, None].expand(-1, -1, n, -1)
        for earlier, difference in enumerate(moved):
            for group, positions in enumerate(runs.groups):
                edges = share[nodes.senders_of(earlier), columns, group]
                if bool(edges.any()):
                    at = difference * positions[:, None, :, None]
                    total = total + torch.einsum("bspm,sr->bprm", at, edges)
        return total

    context = runs.context(stream)
    for layer, block in enumerate(runs.blocks):
        of_heads, of_mlp = 1 + 2 * layer, 2 + 2 * layer
        name = nodes.hook(layer, "attn.hook_z")
        inputs = [block.ln1(read(of_heads, letter)) for letter in LETTERS]
        with collecting(runs.model, [name]) as z:
            block.attn(*inputs, context)
        by_others = others.by(of_heads)
        moved.append(written_by_heads(block, z[name]) - by_others)
        stream = stream + by_others.sum(1) + bias_or_zeros(block.attn.o_proj)
        out = block.mlp(block.ln2(read(of_mlp)[:, :, 0]))
        moved.append((out - others.mlp_out[layer])[:, None])
        stream = stream + others.mlp_out[layer]
    return runs.continued(nodes.n_layers, read(nodes.last_stage)[:, :, 0])
