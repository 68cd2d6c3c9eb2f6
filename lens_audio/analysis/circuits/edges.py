"""The scores of all edges of a model, over data sets of pairs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio import fingerprint
from lens_audio.analysis.circuits.eap import Scores, eap, eap_ig_activations, eap_ig_inputs
from lens_audio.analysis.circuits.encoder import RUNS
from lens_audio.analysis.circuits.exact import exact
from lens_audio.analysis.circuits.graph import Graph
from lens_audio.analysis.circuits.nodes import Nodes, among
from lens_audio.analysis.circuits.pairs import Pairs, with_metrics
from lens_audio.analysis.circuits.runs import GROUPS, plain
from lens_audio.analysis.metrics import MetricFunction, metric_name
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair

METHODS = ("eap", "eap-ig-inputs", "eap-ig-activations", "exact")


def edges(
    model: HookedAudioTransformer,
    pairs: Pairs,
    metric: MetricFunction | None = None,
    method: str = "eap",
    steps: int = 5,
    *,
    senders: Iterable[str] | None = None,
    receivers: Iterable[str] | None = None,
    by_group: bool = False,
    part: str = "decoder",
    by_example: bool = False,
    batch_tokens: int | None = None,
) -> Graph:
    """By how much the metric changes when an edge of the clean run is corrupted, for every edge.

    An edge leads from what one node writes to one input of a later one. It is corrupted when that
    input alone gets what the sender wrote in the corrupted run. `Graph` and `Nodes` say what the
    nodes are; the bias of the attention's output belongs to none.

    - "eap": to first order, (what it writes corrupted - clean) · gradient at the input, summed over
      all real positions. Two forwards and a backward for all edges of a pair.
    - "eap-ig-inputs": with the gradient averaged over `steps` points between the clean and the
      corrupted embeddings that enter block 0, sound included. As steps grow, the edges out of
      `embed` add up to the whole difference of the metric. `steps` forwards and backwards more.
    - "eap-ig-activations": averaged between the sender's own activations, of which a layer's heads
      move together; the rest of the clean run follows. `steps` for each layer's heads and MLP.
    - "exact": a run for every edge, from its receiver's layer on, many in a batch.

    Padding counts for nothing, and rows of a batch may be of unequal length, padded on the left.
    Nothing is left on the model, its weights get no gradients.

    Args:
        pairs: a pair (`lens_audio.data.pair`) of prompts or of batches of them, (clean, corrupted),
            or any number of pairs one after another, each of them or none (pair, metric). Only one
            is held at a time. Of a "group" pair a sender writes what it wrote at the same group.
        metric: a function of logits, one number a row, as in `patching.sweep`; differentiable but
            for "exact".
        steps: of integrated gradients.
        senders, receivers: nodes, such as ["embed", "L0H1"] and ["L1KV0", "logits"], whose edges alone
            are kept, and run by "exact".
        by_group: split every node by groups of positions, "audio", "text" and "last" (the last
            position): the edges of `L0H1 @audio` are those at audio positions.
        part: "encoder" for the edges inside the audio encoder, a graph of its own, in which the rows
            have one spectrogram each.
        by_example: keep the scores of every example, too.
        batch_tokens: of "exact": positions computed at once, at most.

    Raises:
        ValueError: for another method, no steps, a node that does not exist, prompts whose
            positions do not correspond, a NaN metric, one without a gradient, no pairs, hooks on the
            model, or inference mode.
    """
    *_, (_, _, graph) = edges_steps(
        model, pairs, metric, method, steps, senders=senders, receivers=receivers,
        by_group=by_group, part=part, by_example=by_example, batch_tokens=batch_tokens,
    )  # fmt: skip
    assert graph is not None
    return graph


def edges_steps(
    model: HookedAudioTransformer,
    pairs: Pairs,
    metric: MetricFunction | None = None,
    method: str = "eap",
    steps: int = 5,
    *,
    senders: Iterable[str] | None = None,
    receivers: Iterable[str] | None = None,
    by_group: bool = False,
    part: str = "decoder",
    by_example: bool = False,
    batch_tokens: int | None = None,
) -> Iterator[tuple[int, int, Graph | None]]:
    """`edges` to watch, or to stop half way: a run at a time.

    Between two runs the model is as its user left it, so other things may be run there. Hooks that
    are left on it then are refused at the next.

    Yields:
        How many runs are done, of how many for the batches that were begun, and at the end the
        graph. "eap" is a single run of each batch, and so is "exact" here.

    Raises:
        ValueError: as `edges`.
    """
    _check(method, steps)
    nodes = replace(Nodes.of(model.cfg, part), groups=GROUPS if by_group else ())
    wanted = nodes.is_edge & _among(nodes.senders, senders, "sender")[:, None]
    wanted &= _among([receiver.node for receiver in nodes.receivers], receivers, "receiver")
    scoring = _Scoring(model, nodes, wanted, method, steps, batch_tokens)
    total = torch.zeros(wanted.shape, dtype=torch.float64)
    kept: list[Tensor] = []
    names: list[str] = []
    prints: list[Any] = []
    n_examples = n_runs = done = 0
    for pair, own in with_metrics(pairs, metric):
        n_runs += scoring.n_runs
        for scores in scoring.steps_of(pair, own):
            found, done = scores, done + 1
            yield done, n_runs, None
        found = nodes.joined(found.cpu()).masked_fill(~wanted, 0.0)
        total += found.double().sum(0)
        n_examples += len(found)
        kept += [found] if by_example else []
        names += [] if metric_name(own) in names else [metric_name(own)]
        prints.append([fingerprint.of_prompt(prompt) for prompt in (pair.clean, pair.corrupted)])
    about = {
        "model": model.cfg.model_name,
        "method": method,
        **({"steps": steps} if "ig" in method else {}),
        "metric": ", ".join(names),
        "n_examples": n_examples,
        "pairs": fingerprint.of_request(prints),
        "versions": fingerprint.versions(),
    }
    mean = (total / n_examples).to(found.dtype)
    yield done, n_runs, Graph(nodes, mean, wanted, about, torch.cat(kept) if by_example else None)


def _check(method: str, steps: int) -> None:
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if steps < 1:
        raise ValueError(f"steps={steps}; integrated gradients need at least 1")
    if method != "exact" and torch.is_inference_mode_enabled():
        raise ValueError(f"{method!r} needs gradients; leave torch.inference_mode()")


def _among(names: Sequence[str], chosen: Iterable[str] | None, what: str) -> Bool[Tensor, " node"]:
    """Which nodes are chosen: all for None."""
    if chosen is None:
        return torch.ones(len(names), dtype=torch.bool)
    found = among(names, chosen, what)
    if not bool(found.any()):
        raise ValueError(f"no {what} was named; there are {', '.join(dict.fromkeys(names))}")
    return found


@dataclass
class _Scoring:
    """How a batch of pairs is scored."""

    model: HookedAudioTransformer
    nodes: Nodes
    wanted: Bool[Tensor, "sender receiver"]
    method: str
    steps: int
    batch_tokens: int | None

    @cached_property
    def stages(self) -> list[int]:
        """Those of the senders that are wanted."""
        senders = self.nodes.split(self.wanted).any(-1).any(1)
        of_stage = map(self.nodes.whole.senders_of, range(self.nodes.last_stage))
        return [stage for stage, place in enumerate(of_stage) if bool(senders[place].any())]

    @property
    def n_runs(self) -> int:
        """How many steps a batch has."""
        ways = {"eap-ig-inputs": 1, "eap-ig-activations": len(self.stages)}
        return self.steps * ways[self.method] if self.method in ways else 1

    def steps_of(self, pair: Pair, metric: MetricFunction) -> Iterator[Scores]:
        """The scores after each step; of senders that are not wanted, whatever is at hand."""
        steps = self._steps_of(pair, metric)
        while True:
            self.model.check_no_hooks()
            with plain(self.model):
                found = next(steps, None)
            if found is None:
                return
            yield found

    def _steps_of(self, pair: Pair, metric: MetricFunction) -> Iterator[Scores]:
        runs = RUNS[self.nodes.part].of(self.model, pair, metric, self.nodes)
        if self.method == "exact":
            yield exact(runs, self.nodes.split(self.wanted), self.batch_tokens)
        elif self.method == "eap":
            yield from eap(runs, self.stages)
        elif self.method == "eap-ig-inputs":
            yield from eap_ig_inputs(runs, self.stages, self.steps)
        else:
            yield from eap_ig_activations(runs, self.stages, self.steps)
