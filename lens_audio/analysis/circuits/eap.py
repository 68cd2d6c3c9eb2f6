"""Edge attribution patching: the effect of corrupting every edge at once, to first order.

    score(u, v) = sum over positions of (u' - u) · dM / d(input of v)

u and u' are what a sender writes in the clean and in the corrupted run; v's input is taken before
its norm, and the gradient passes through v's own copy of that norm. Integrated gradients average
the gradient along a way from clean to corrupted, and leave the difference whole.

Sources: Syed, Rager, Conmy, "Attribution Patching Outperforms Automated Circuit Discovery", arXiv
2310.10348 (EAP); Hanna, Pezzelle, Belinkov, "Have Faith in Faithfulness", arXiv 2403.17806 (EAP-IG).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.circuits.nodes import LETTERS
from lens_audio.analysis.circuits.runs import PairRuns, Written
from lens_audio.analysis.metrics import AppliedMetric

Scores = Float[Tensor, "example sender receiver group"]  # of whole nodes, in groups of positions

# Numbers of a gradient that are made at once: on a CPU as many as its cache holds.
AT_ONCE = {"cpu": 2**20, "gpu": 2**26}


def eap(runs: PairRuns, stages: Iterable[int]) -> Iterator[Scores]:
    """The gradient at the clean run, which is the first forward of the two; one step.

    Args:
        stages: of the senders whose edges are scored.
    """
    embed, *rest = runs.nodes.written
    run = _differentiated(runs, 0, runs.embed, rest)
    written = Written.of(runs.blocks, runs.nodes, run.values | {embed: runs.embed})
    scores = _no_scores(runs)
    _add(scores, runs, runs.corrupted.minus(written, runs.mask), run, stages)
    yield scores


def eap_ig_inputs(runs: PairRuns, stages: Iterable[int], steps: int) -> Iterator[Scores]:
    """Gradients averaged over the midpoints of `steps` parts between the clean and corrupted merged
    embeddings (EAP-IG): sound and text enter block 0, and every activation follows.

    After each run the scores so far; the last are those of all.
    """
    _, written, logits = runs.clean()
    applied, differences = runs.applied(logits), runs.corrupted.minus(written, runs.mask)
    scores, stages = _no_scores(runs), list(stages)
    for step in range(steps):
        moved = runs.embed + (step + 0.5) / steps * differences.embed
        _add(scores, runs, differences, _differentiated(runs, 0, moved, applied=applied), stages)
        yield scores / steps


def eap_ig_activations(runs: PairRuns, stages: Iterable[int], steps: int) -> Iterator[Scores]:
    """Gradients averaged over midpoints between the activations of the sender itself.

    What the embeddings, the heads of one layer together, or one MLP write moves from clean to
    corrupted while the rest of the clean run follows; edges from these senders take the gradients
    along that way. So the scores of a layer's heads over all receivers add up to the exact effect
    of corrupting those heads, as `steps` grows. (The authors' code averages every edge over the ways
    of all layers, those of other senders included.)

    After each run the scores so far; the last are those of all.
    """
    clean, written, logits = runs.clean()
    applied, differences = runs.applied(logits), runs.corrupted.minus(written, runs.mask)
    scores = _no_scores(runs)
    for stage in stages:
        layer, is_mlp = divmod(stage - 1, 2)
        for step in range(steps):
            at, hooks = (step + 0.5) / steps, []
            if stage == 0:
                start, resid = 0, runs.embed + at * differences.embed
            elif is_mlp:
                start, resid = layer + 1, clean[runs.nodes.hook(layer, "hook_resid_mid")]
                resid = resid + written.mlp_out[layer] + at * differences.mlp_out[layer]
            else:
                start, resid = layer, clean[runs.nodes.hook(layer, "hook_resid_pre")]
                moved = written.z[layer] + at * differences.z[layer]
                hooks = [
                    (runs.nodes.hook(layer, "attn.hook_z"), lambda z, hook, moved=moved: moved)
                ]
            run = _differentiated(runs, start, resid, applied=applied, fwd_hooks=hooks)
            _add(scores, runs, differences, run, [stage])
            yield scores / steps


@dataclass
class _Run:
    """A run from a layer on: activations, and dM/da where receivers read."""

    first: int
    values: dict[str, Tensor]
    gradients: dict[str, Tensor]
    of_logits: Float[Tensor, "batch last d_model"]


def _differentiated(
    runs: PairRuns,
    first: int,
    resid: Float[Tensor, "batch pos d_model"],
    keep: Iterable[str] = (),
    applied: AppliedMetric | None = None,
    fwd_hooks: list[tuple[str, Callable]] = [],  # noqa: B006
) -> _Run:
    """One forward and one backward; rows do not mix, so the sum of the metric serves all."""
    layers = range(first, runs.nodes.n_layers)
    reads = [f"attn.hook_{letter}" for letter in LETTERS] + ["hook_mlp_in"]
    at = [runs.nodes.hook(layer, read) for read in reads for layer in layers]
    final = [runs.final_name] if layers else []
    streams = [runs.nodes.hook(layer, "hook_resid_pre") for layer in layers]
    names = [*at, *final, *streams, *keep]
    with torch.enable_grad():
        start = resid.detach().requires_grad_()
        values, logits = runs.from_layer(first, start, names, fwd_hooks)
        applied = applied or runs.applied(logits)
        metric = applied(logits)
        if not metric.requires_grad:
            raise ValueError(f"metric {applied.name!r} has no gradient to the logits")
        ends = [values[name] for name in at] + [
            values[name] if layers else start for name in [runs.final_name]
        ]
        found = torch.autograd.grad(metric.sum(), ends, materialize_grads=True)
    values = {name: value.detach() for name, value in values.items() if name not in at}
    return _Run(first, values, dict(zip(at, found, strict=False)), found[-1][:, -runs.n_final :])


def _no_scores(runs: PairRuns) -> Scores:
    precise = torch.promote_types(runs.embed.dtype, torch.float32)
    shape = len(runs.mask), *runs.nodes.is_edge.shape, len(runs.groups)
    return torch.zeros(shape, dtype=precise, device=runs.embed.device)


@torch.no_grad()
def _add(
    scores: Scores, runs: PairRuns, differences: Written, run: _Run, stages: Iterable[int]
) -> None:
    """Add what a run's gradients make of the differences, some positions at a time."""
    nodes, stages = runs.nodes, list(stages)
    n_positions, end = runs.mask.shape[1], nodes.last_stage

    def add(stage: int, receivers: slice, gradients: Tensor, some: slice) -> None:
        written = differences.by(stage, some).to(scores.dtype)
        for group, positions in enumerate(runs.groups):
            at = written if len(runs.groups) == 1 else written * positions[:, None, some, None]
            of_edges = at.flatten(2) @ gradients.flatten(2).mT
            scores[:, nodes.senders_of(stage), receivers, group] += of_edges

    width = 2 * nodes.kv_heads + nodes.n_heads
    at_once = AT_ONCE["cpu" if runs.embed.device.type == "cpu" else "gpu"]
    n_some = max(1, at_once // (len(scores) * width * runs.embed.shape[-1]))
    for layer in range(run.first, nodes.n_layers):
        of_heads, of_mlp = 1 + 2 * layer, 2 + 2 * layer
        mlp = run.gradients[nodes.hook(layer, "hook_mlp_in")][:, None].to(scores.dtype)
        norm = _Normed.of(runs, layer, run, scores.dtype)
        for start in range(0, n_positions, n_some):
            some = slice(start, start + n_some)
            read = norm.at_inputs(some)
            for stage in stages:
                if stage < of_heads:
                    add(stage, nodes.receivers_of(of_heads), read, some)
                if stage < of_mlp:
                    add(stage, nodes.receivers_of(of_mlp), mlp[:, :, some], some)
    last = slice(n_positions - runs.n_final, n_positions)
    for stage in stages:
        add(stage, nodes.receivers_of(end), run.of_logits[:, None].to(scores.dtype), last)


@dataclass
class _Normed:
    """A layer's queries, keys and values as functions of their inputs before the norm.

    Such an input x is read as W (w x̂), x̂ = x / s with the root mean square s of x (a LayerNorm's x
    is centred first), so that with u = Wᵀ g w of a gradient g at what was read,

        dM/dx = (u - x̂ mean(x̂ u)) / s
    """

    weights: Float[Tensor, "receiver d_head d_model"]  # W w
    gradients: Float[Tensor, "batch receiver pos d_head"]  # g / s
    unit: Float[Tensor, "batch pos d_model"]

    @classmethod
    def of(cls, runs: PairRuns, layer: int, run: _Run, dtype: torch.dtype) -> "_Normed":
        """Of a run's gradients."""
        block, hook = runs.blocks[layer], partial(runs.nodes.hook, layer)
        norm, resid = block.ln1, run.values[hook("hook_resid_pre")].to(dtype)
        linears = [getattr(block.attn, f"{letter}_proj") for letter in LETTERS]
        weights = torch.cat([linear.weight for linear in linears]).to(dtype) * norm.w.to(dtype)
        if norm.centered:
            resid = resid - resid.mean(-1, keepdim=True)
            weights = weights - weights.mean(-1, keepdim=True)
        scale = (resid.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
        found = [run.gradients[hook(f"attn.hook_{letter}")] for letter in LETTERS]
        gradients = torch.cat(found, dim=2).to(dtype).transpose(1, 2) / scale[:, None]
        d_head = gradients.shape[-1]
        return cls(weights.unflatten(0, (-1, d_head)), gradients, resid / scale)

    def at_inputs(self, some: slice) -> Float[Tensor, "batch receiver some_pos d_model"]:
        """dM/dx of every head's query input, then of every key-value head's key and value inputs."""
        unit, gradients = self.unit[:, None, some], self.gradients[:, :, some]
        along = (gradients * (unit @ self.weights.mT)).sum(-1, keepdim=True) / unit.shape[-1]
        return (gradients @ self.weights).addcmul_(unit, along, value=-1)
