"""Circuits: does a small set of heads, of nodes or of edges do what the model does?

Heads left out of a circuit are given the z they have in the corrupted run, at every position
(resample ablation); MLPs are recomputed. With the metric m of the whole model M, of the circuit C
and of no head at all, ∅:

    faithfulness(C) = (m(C) - m(∅)) / (m(M) - m(∅))

Nodes and edges are those of `analysis.circuits`, and ∅ is then the corrupted run: there the embeddings
and MLPs are nodes, too.

1: the circuit does what the model does; 0: no more than no head at all (Wang et al., "Interpretability
in the Wild", arXiv 2211.00593; Hanna, Pezzelle, Belinkov, "Have Faith in Faithfulness", arXiv
2403.17806, equation 2).
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio import files, hooks
from lens_audio.analysis.circuits.faithfulness import CircuitResult, circuit_metric
from lens_audio.analysis.circuits.graph import Graph
from lens_audio.analysis.circuits.nodes import Nodes
from lens_audio.analysis.listening import check_heads
from lens_audio.analysis.metrics import AppliedMetric, MetricFunction, logits_needed
from lens_audio.analysis.patching.alignment import BaseAndSource, as_pair, not_given
from lens_audio.analysis.patching.fast import LEAST_BATCH_TOKENS
from lens_audio.analysis.patching.paths import Paths
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Head, head_name, head_pairs


@dataclass(frozen=True)
class Circuit:
    """A set of heads, in order of layer and head."""

    heads: tuple[Head, ...]

    @classmethod
    def of(cls, heads: "Circuit | Iterable[Any]") -> "Circuit":
        """The circuit of some (layer, head) pairs, or labels ("L0H2"); a pair given twice counts once."""
        if isinstance(heads, Circuit):
            return heads
        pairs = head_pairs(heads)
        wrong = [pair for pair in pairs if min(pair) < 0]
        if wrong:
            raise ValueError(f"layers and heads are counted from 0; there is no {wrong[0]}")
        return cls(tuple(sorted(set(pairs))))

    def __len__(self) -> int:
        return len(self.heads)

    def __contains__(self, head: object) -> bool:
        return head in self.heads

    def __repr__(self) -> str:
        return f"Circuit({self})"

    def __str__(self) -> str:
        return ", ".join(head_name(*head) for head in self.heads) or "no heads"

    def added(self, head: Head) -> "Circuit":
        """With one head more."""
        return Circuit.of([*self.heads, head])

    def removed(self, head: Head) -> "Circuit":
        """With one head less."""
        return Circuit(tuple(other for other in self.heads if other != head))

    def to_code(self) -> str:
        """Python that makes the circuit again."""
        pairs = ", ".join(f"({layer}, {head})" for layer, head in self.heads)
        return f"la.analysis.Circuit.of([{pairs}])"

    def to_json(self, path: str | os.PathLike[str] | None = None, **about: Any) -> str:
        """The circuit as JSON, with what else should be kept; written to a file if one is named."""
        text = json.dumps({**about, "heads": self.heads}, indent=2)
        if path is not None:
            files.write_text(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> "Circuit":
        """Of what `to_json` gave: the text, or the file's path.

        Raises:
            FileNotFoundError, ValueError: for no such file, or text that holds no heads.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        try:
            return cls.of(json.loads(text)["heads"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no circuit: {error!r}; Circuit.to_json writes one") from None


Outcome = CircuitResult  # until the next release


class Pruned(NamedTuple):
    """A circuit with the heads it lost on the way: layer, head, size and faithfulness after."""

    circuit: Circuit
    steps: pd.DataFrame


class CircuitTest:
    """Runs circuits of one model on one pair of prompts, or a batch of pairs."""

    @torch.no_grad()
    def __init__(
        self,
        model: HookedAudioTransformer,
        clean: AudioPrompt | Pair,
        corrupted: AudioPrompt | None = None,
        metric: MetricFunction | None = None,
        *,
        batch_tokens: int | None = None,
    ) -> None:
        """Run both prompts and keep what circuits need.

        Args:
            clean, corrupted: prompts of the same shape with their audio at the same positions, or a
                pair (`lens_audio.data.pair`) in the place of both. Of a "group" pair the clean
                prompt runs, and a corrupted head has the z of the same group of the other prompt.
            metric: a function of logits, one number a row, as in `patching.sweep`.
            batch_tokens: positions computed at once, at most.

        Raises:
            ValueError: for prompts of unequal shape, hooks left on the model, or a metric that is
                NaN or not one number a row.
        """
        if metric is None:
            raise not_given(metric=metric)
        runs = BaseAndSource.of(model, clean, corrupted, direction="noise")
        clean, corrupted = runs.base, runs.source
        self.model, self.pair, self.logits_metric = model, runs.pair, metric
        self.n_examples = len(clean)
        self.shape = (model.cfg.n_layers, model.cfg.n_heads)
        self.attention_mask = clean.attention_mask.to(model.device)
        self.rows = max(1, (batch_tokens or LEAST_BATCH_TOKENS) // clean.tokens.numel())
        resid = [f"blocks.{layer}.hook_resid_pre" for layer in range(self.shape[0])]
        z = [f"blocks.{layer}.attn.hook_z" for layer in range(self.shape[0])]
        self.n_last = logits_needed([metric], clean, corrupted)
        clean_logits, self.clean_cache = model.run_with_cache(
            clean, names_filter=resid, logits_to_keep=self.n_last
        )
        corrupted_logits, cache = model.run_with_cache(
            corrupted, names_filter=z, logits_to_keep=self.n_last
        )
        self.corrupted_cache = runs.at_base(cache)
        self.metric = AppliedMetric.to(metric, clean_logits, corrupted_logits)
        every = torch.ones(1, *self.shape, dtype=torch.bool)
        self.whole, self.none = self._metrics(torch.cat([every, ~every]))

    def only(
        self,
        circuit: Circuit | Graph | Iterable[Any] | None = None,
        *,
        nodes: Iterable[str] | None = None,
        edges: Iterable[Sequence[str]] | None = None,
    ) -> CircuitResult:
        """The circuit alone: every other head, node or edge is corrupted.

        Args:
            circuit: heads, beside which the embeddings and MLPs are left to run; or a `circuits.Graph`,
                of which the edges that it keeps count.
            nodes: senders of `circuits.Nodes`, such as ["embed", "L0H2", "MLP1"], in the place of a
                circuit. Every other node, the embeddings too, writes what it did in the corrupted run.
            edges: (sender, receiver, input), such as ("embed", "L1KV0", "k"), or (sender, receiver)
                into an MLP or the logits. Over every other edge passes what did in the corrupted run.

        Raises:
            ValueError: for a head, node or edge that does not exist, or unless one of the three is
                given.
        """
        chosen = self._chosen(circuit, nodes, edges)
        return self._run(chosen) if isinstance(chosen, Graph) else self._result(self._kept(chosen))

    def without(
        self,
        circuit: Circuit | Graph | Iterable[Any] | None = None,
        *,
        nodes: Iterable[str] | None = None,
        edges: Iterable[Sequence[str]] | None = None,
    ) -> CircuitResult:
        """Everything but the circuit, whose heads, nodes or edges are corrupted; as `only` has them."""
        chosen = self._chosen(circuit, nodes, edges)
        if isinstance(chosen, Graph):
            return self._run(chosen.with_kept(chosen.nodes.is_edge & ~chosen.kept))
        return self._result(~self._kept(chosen))

    def corrupting(self, circuit: Circuit | Iterable[Any], *, keep: bool) -> list[hooks.Hook]:
        """Hooks that corrupt every other head (`keep`), or the circuit's own, for any run of the
        clean prompt.
        """
        kept = self._kept(circuit)
        corrupted = (~kept if keep else kept).nonzero().tolist()
        if not corrupted:
            return []
        heads = [(layer, head) for layer, head in corrupted]
        return hooks.patch("z", heads=heads, source=self.corrupted_cache)

    def random(self, size: int, n: int = 20, seed: int = 0) -> Float[Tensor, " n"]:
        """Faithfulness of n circuits of so many heads drawn at random: what size alone does.

        Raises:
            ValueError: unless 0 <= size <= the number of heads, and n > 0.
        """
        total = self.shape[0] * self.shape[1]
        if not 0 <= size <= total or n < 1:
            raise ValueError(f"{n} circuits of {size} heads, from a model that has {total}")
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(n, total, generator=generator).argsort(1)
        return self._faithfulness((order < size).unflatten(1, self.shape))

    @torch.no_grad()
    def prune(self, circuit: Circuit | Iterable[Any], least: float = 0.9) -> Pruned:
        """Drop heads one by one, each time the one that leaves most, while faithfulness is enough.

        Greedy: the circuit is small, not the smallest. Each step runs every head that is left. What
        is left fits these prompts best: with few of them it may be far less faithful to others, so
        test it on pairs that it was not found on.

        Args:
            circuit: to begin with, such as the strongest heads of a patching sweep.
            least: the faithfulness to keep.

        Raises:
            ValueError: if the circuit is less faithful than that to begin with.
        """
        kept = self._kept(circuit)
        start = self._result(kept).faithfulness
        if not start >= least:
            raise ValueError(
                f"this circuit's faithfulness is {start:.3f}, less than the {least} to keep; begin "
                "with more heads"
            )
        steps = []
        while kept.any():
            heads = kept.nonzero()
            tried = kept.repeat(len(heads), 1, 1)
            tried[torch.arange(len(heads)), heads[:, 0], heads[:, 1]] = False
            faithfulness = self._faithfulness(tried)
            best = int(faithfulness.argmax())
            if not float(faithfulness[best]) >= least:
                break
            kept = tried[best]
            layer, head = heads[best].tolist()
            steps.append((layer, head, int(kept.sum()), float(faithfulness[best])))
        columns = ["layer", "head", "size", "faithfulness"]
        return Pruned(Circuit.of(kept.nonzero().tolist()), pd.DataFrame(steps, columns=columns))

    def _chosen(
        self,
        circuit: Any,
        nodes: Iterable[str] | None,
        edges: Iterable[Sequence[str]] | None,
    ) -> Circuit | Graph:
        """Heads, or the edges of a graph."""
        if sum(given is not None for given in (circuit, nodes, edges)) != 1:
            raise ValueError(
                "give a circuit (heads, or a Graph), or nodes=, or edges=: one of them"
            )
        if nodes is None and edges is None:
            return circuit if isinstance(circuit, Graph) else Circuit.of(circuit)
        every = Nodes.of(self.model.cfg)
        kept = every.matrix_of(edges or ()) if nodes is None else every.leaving(nodes)
        return Graph(every, torch.zeros(kept.shape), kept)

    def _run(self, graph: Graph) -> CircuitResult:
        return circuit_metric(self.model, self.pair, graph, self.logits_metric)

    def _kept(self, circuit: Circuit | Iterable[Any]) -> Bool[Tensor, "layer head"]:
        kept = torch.zeros(self.shape, dtype=torch.bool)
        for layer, head in Circuit.of(circuit).heads:
            check_heads([(layer, head)], *self.shape)
            kept[layer, head] = True
        return kept

    def _result(self, kept: Bool[Tensor, "layer head"]) -> CircuitResult:
        return CircuitResult(self._metrics(kept[None])[0], self.whole, self.none)

    def _faithfulness(self, kept: Bool[Tensor, "circuit layer head"]) -> Float[Tensor, " circuit"]:
        results = [CircuitResult(row, self.whole, self.none) for row in self._metrics(kept)]
        return torch.tensor([result.faithfulness for result in results])

    @torch.no_grad()
    def _metrics(
        self, kept: Bool[Tensor, "circuit layer head"]
    ) -> Float[Tensor, "circuit example"]:
        self.model.check_no_hooks()
        return torch.cat([self._batch(some) for some in kept.split(self.rows)])

    def _batch(self, kept: Bool[Tensor, "circuit layer head"]) -> Float[Tensor, "circuit example"]:
        """Rows are circuits, then examples. Layers below the first corrupted head are as they were."""
        changed = (~kept).any(2).any(0).nonzero().flatten().tolist()
        first = changed[0] if changed else self.shape[0] - 1
        copies = len(kept)
        clean = kept.to(self.model.device).repeat_interleave(self.n_examples, dim=0)

        def corrupt(z: Float[Tensor, "row pos head d_head"], hook: Any) -> Tensor:
            corrupted = self.corrupted_cache[hook.name].repeat(copies, 1, 1, 1)
            return torch.where(clean[:, hook.layer(), None, :, None].bool(), z, corrupted)

        logits = self.model.run_with_hooks(
            self.clean_cache[f"blocks.{first}.hook_resid_pre"].repeat(copies, 1, 1),
            start_at_layer=first,
            attention_mask=self.attention_mask.repeat(copies, 1),
            fwd_hooks=[(f"blocks.{layer}.attn.hook_z", corrupt) for layer in changed],
            logits_to_keep=self.n_last,
        )
        values = [self.metric(some) for some in logits.split(self.n_examples)]
        return torch.stack(values).float().cpu()


EDGE_INPUTS = ("q", "k", "v")


@torch.no_grad()
def circuit_edges(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    circuit: Circuit | Iterable[Any] | None = None,
    metric: MetricFunction | None = None,
    *,
    direction: str = "denoise",
    mlps: str = "recompute",
) -> pd.DataFrame:
    """What each head of a circuit tells the later ones, and the logits, by path patching.

    Args:
        clean, corrupted: two prompts, or a pair in the place of both, as in `path_patch`.
        direction, mlps: as in `path_patch`.

    Returns:
        Columns sender, receiver ((layer, head) pairs, or "logits"), input ("q", "k", "v"; of the
        logits "resid") and recovery: 0 where the direct path does nothing, 1 where it does as much
        as the whole source run; NaN where base and source do not differ.

    Raises:
        ValueError: for an empty circuit, and what `path_patch` raises.
    """
    if circuit is None or metric is None:
        raise not_given(circuit=circuit, metric=metric)
    heads = list(Circuit.of(circuit).heads)
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
    pair = as_pair(clean, corrupted)
    paths = Paths.between(
        model, clean, corrupted, mlps=mlps, direction=direction,
        logits_to_keep=logits_needed([metric], pair.clean, pair.corrupted),
    )  # fmt: skip
    unpatched = paths.base_logits, paths.source_logits
    applied = AppliedMetric.to(metric, *unpatched)
    base, source = (float(applied(logits).mean()) for logits in unpatched)
    gap = source - base or float("nan")
    group = model.cfg.n_heads // model.cfg.kv_heads
    rows: list[tuple[Head, Any, str, float]] = []
    for sender in heads:
        edges: list[tuple[Any, str, Tensor]] = [("logits", "resid", paths.to_logits(sender))]
        for layer, head in heads:
            for name in EDGE_INPUTS if layer > sender[0] else ():
                reached = (layer, head if name == "q" else head // group)
                edges.append(((layer, head), name, paths.to_heads(sender, [reached], name)))
        for receiver, name, logits in edges:
            recovery = (float(applied(logits).mean()) - base) / gap
            rows.append((sender, receiver, name, recovery))
    return pd.DataFrame(rows, columns=["sender", "receiver", "input", "recovery"])
