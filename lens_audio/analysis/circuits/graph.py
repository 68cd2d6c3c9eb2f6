"""A circuit as one dense matrix: what each sender tells each receiver, with the names of both."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lens_audio import files
from lens_audio.sites import head_name

KIND = "lens_audio edges"  # what a saved file says it holds
LETTERS = ("q", "k", "v")


class Receiver(NamedTuple):
    """One input of a node: "q", "k", "v", or "resid" of an MLP and of the logits."""

    node: str
    input: str

    def __str__(self) -> str:
        return self.node if self.input == "resid" else f"{self.node} {self.input}"


@dataclass(frozen=True)
class Nodes:
    """The nodes of a decoder, in the order of the matrix.

    Senders: `embed`, then of each layer its heads (`L0H0`, …) and its MLP (`MLP0`). Receivers: of
    each layer its heads' queries, its key-value heads' keys and values (`L0KV0`), its MLP; then
    `logits`, the final residual stream.

    What comes earlier is told by a *stage*: 0 for the embeddings, 1 + 2 l for the heads of layer l,
    2 + 2 l for its MLP, and the last for the logits. An edge leads from a stage to a later one.
    """

    n_layers: int
    n_heads: int
    kv_heads: int

    @classmethod
    def of(cls, cfg: Any) -> "Nodes":
        """The nodes of a model with this config."""
        return cls(cfg.n_layers, cfg.n_heads, cfg.kv_heads)

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names, in order."""
        names = ["embed"]
        for layer in range(self.n_layers):
            names += [head_name(layer, head) for head in range(self.n_heads)]
            names.append(f"MLP{layer}")
        return tuple(names)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """Names and inputs, in order."""
        found = []
        for layer in range(self.n_layers):
            found += [Receiver(head_name(layer, head), "q") for head in range(self.n_heads)]
            for letter in "kv":
                found += [Receiver(f"L{layer}KV{head}", letter) for head in range(self.kv_heads)]
            found.append(Receiver(f"MLP{layer}", "resid"))
        return (*found, Receiver("logits", "resid"))

    @property
    def last_stage(self) -> int:
        """That of the logits."""
        return 2 * self.n_layers + 1

    def senders_of(self, stage: int) -> slice:
        """Where a stage's senders are in the matrix: the embeddings, a layer's heads, or an MLP."""
        if stage == 0:
            return slice(0, 1)
        layer, is_mlp = divmod(stage - 1, 2)
        start = 1 + layer * (self.n_heads + 1)
        end = start + self.n_heads
        return slice(end, end + 1) if is_mlp else slice(start, end)

    def receivers_of(self, stage: int, letter: str | None = None) -> slice:
        """Where a stage's receivers are in the matrix; of heads all, or one of q, k and v."""
        width = self.n_heads + 2 * self.kv_heads + 1
        if stage == self.last_stage:
            return slice(self.n_layers * width, self.n_layers * width + 1)
        layer, is_mlp = divmod(stage - 1, 2)
        start = layer * width
        if is_mlp:
            return slice(start + width - 1, start + width)
        ends = [0, self.n_heads, self.n_heads + self.kv_heads, width - 1]
        first, last = (0, 3) if letter is None else (i := LETTERS.index(letter), i + 1)
        return slice(start + ends[first], start + ends[last])

    @cached_property
    def is_edge(self) -> Bool[Tensor, "sender receiver"]:
        """Whether the receiver is later than the sender."""
        from_stage = torch.zeros(len(self.senders), dtype=torch.long)
        to_stage = torch.zeros(len(self.receivers), dtype=torch.long)
        for stage in range(self.last_stage):
            from_stage[self.senders_of(stage)] = stage
            to_stage[self.receivers_of(stage + 1)] = stage + 1
        return from_stage[:, None] < to_stage[None]

    @cached_property
    def inputs_of(self) -> dict[str, list[int]]:
        """The receivers, by number, that each node reads with: of a head its query's, and the keys'
        and values' of its key-value head.
        """
        numbers = {receiver: i for i, receiver in enumerate(self.receivers)}
        found: dict[str, list[int]] = {"embed": []}
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                shared = f"L{layer}KV{head // (self.n_heads // self.kv_heads)}"
                name = head_name(layer, head)
                read = [Receiver(name, "q"), Receiver(shared, "k"), Receiver(shared, "v")]
                found[name] = [numbers[receiver] for receiver in read]
            found[f"MLP{layer}"] = [numbers[Receiver(f"MLP{layer}", "resid")]]
        return found | {"logits": [len(numbers) - 1]}


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """Edges between the nodes of a model, and those of them that are kept: all, or a circuit's.

    `scores[sender, receiver]` is by how much the metric changes, or would, when the edge is
    corrupted: negative where the edge works for it. It is the mean over the examples, and 0 where
    there is no edge.
    """

    nodes: Nodes
    scores: Float[Tensor, "sender receiver"]
    kept: Bool[Tensor, "sender receiver"]
    about: dict[str, Any] = field(default_factory=dict)  # model, method, metric, pairs, versions
    by_example: Float[Tensor, "example sender receiver"] | None = None

    def __len__(self) -> int:
        return int(self.kept.sum())

    def __repr__(self) -> str:
        sizes = f"{len(self.senders)} senders x {len(self.receivers)} receivers"
        method = self.about.get("method", "edges")
        return f"Graph({method}: {len(self)} of {int(self.nodes.is_edge.sum())} edges, {sizes})"

    @property
    def senders(self) -> tuple[str, ...]:
        """Names of the rows."""
        return self.nodes.senders

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        """Names of the columns."""
        return self.nodes.receivers

    def score(self, sender: str, receiver: str, input: str = "resid") -> float:
        """The score of one edge.

        Raises:
            ValueError: for nodes that do not exist, or no edge between them.
        """
        wanted = Receiver(receiver, input)
        if sender not in self.senders or wanted not in self.receivers:
            raise ValueError(
                f"no edge from {sender!r} to {str(wanted)!r}; senders are {', '.join(self.senders)}; "
                f"receivers {', '.join(map(str, self.receivers))}"
            )
        row, column = self.senders.index(sender), self.receivers.index(wanted)
        if not bool(self.nodes.is_edge[row, column]):
            raise ValueError(f"{sender} is not earlier than {wanted}, so it tells it nothing")
        return float(self.scores[row, column])

    def with_kept(self, kept: Bool[Tensor, "sender receiver"]) -> "Graph":
        """The same scores, and other edges kept.

        Raises:
            ValueError: for what is no edge.
        """
        if bool((kept & ~self.nodes.is_edge).any()):
            raise ValueError("an edge leads from an earlier node to a later one; see nodes.is_edge")
        return replace(self, kept=kept)

    def top(self, n: int) -> "Graph":
        """With the n largest edges, by size, of those that are kept.

        Raises:
            ValueError: unless 0 <= n <= the number of edges.
        """
        return replace(self, kept=prune.largest(self.scores, self.kept, self._counted(n)))

    def greedy(self, n: int) -> "Graph":
        """With n edges, each the largest into what is already reached from the logits upward.

        Every edge then lies on a way to the logits, which `top` does not see to. Fewer
        than n are kept where no more lead to the logits.

        Raises:
            ValueError: unless 0 <= n <= the number of edges.
        """
        kept = prune.greedy(self.nodes, self.scores, self.kept, self._counted(n))
        return replace(self, kept=kept)

    def by_influence(self, share: float) -> "Graph":
        """With the fewest edges through which this share of all influence on the logits passes.

        Raises:
            ValueError: unless 0 <= share <= 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share of {share}; it is between 0 and 1")
        kept = prune.most_influential(self.nodes, self.scores, self.kept, share)
        return replace(self, kept=kept)

    def _counted(self, n: int) -> int:
        if not 0 <= n <= len(self):
            raise ValueError(f"{n} edges of a graph that has {len(self)}")
        return n

    def kept_edges(self) -> Int[Tensor, "edge 2"]:
        """Sender and receiver, by number, of the edges that are kept, the largest scores first."""
        found = self.kept.nonzero()
        sizes = self.scores[found[:, 0], found[:, 1]].abs()
        return found[sizes.argsort(descending=True, stable=True)]

    def to_dataframe(self) -> pd.DataFrame:
        """Columns sender, receiver, input ("q", "k", "v", "resid") and score, the largest first."""
        rows = [
            (self.senders[i], *self.receivers[j], float(self.scores[i, j]))
            for i, j in self.kept_edges().tolist()
        ]
        return pd.DataFrame(rows, columns=["sender", "receiver", "input", "score"])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a .json or .safetensors file, whole or not at all; `by_example` only the second has.

        Raises:
            ValueError: for another ending.
            OSError: if the path cannot be written.
        """
        facts = {"nodes": asdict(self.nodes), "about": self.about}
        if _ending(path) == ".json":
            edges = [
                [i, j, float(self.scores[i, j])] for i, j in self.nodes.is_edge.nonzero().tolist()
            ]
            names = {"senders": self.senders, "receivers": self.receivers}
            dtype = str(self.scores.dtype).removeprefix("torch.")
            held = {"kind": KIND, "dtype": dtype, **facts, **names}
            held |= {"edges": edges, "kept": self.kept.nonzero().tolist()}
            return files.write_text(path, json.dumps(held) + "\n")
        tensors = {"scores": self.scores.contiguous(), "kept": self.kept.contiguous()}
        if self.by_example is not None:
            tensors["by_example"] = self.by_example.contiguous()
        return files.write_bytes(
            path, serialize(tensors, {"kind": KIND, "facts": json.dumps(facts)})
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Graph":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: for no file, or another kind of file.
        """
        path = Path(path).expanduser()
        ending = _ending(path)
        if not path.is_file():
            raise FileNotFoundError(f"no saved edges at {path}")
        try:
            return cls._of_json(path) if ending == ".json" else cls._of_safetensors(path)
        except Exception as error:
            raise ValueError(f"{path.name} holds no saved edges: {error!r}") from error

    @classmethod
    def _of_json(cls, path: Path) -> "Graph":
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["kind"] != KIND:
            raise ValueError(f"it holds {held['kind']}")
        nodes = Nodes(**held["nodes"])
        scores = torch.zeros(nodes.is_edge.shape, dtype=getattr(torch, held["dtype"]))
        kept = torch.zeros_like(nodes.is_edge)
        for i, j, score in held["edges"]:
            scores[i, j] = score
        for i, j in held["kept"]:
            kept[i, j] = True
        return cls(nodes, scores, kept, held["about"])

    @classmethod
    def _of_safetensors(cls, path: Path) -> "Graph":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("kind") != KIND:
            raise ValueError("it was not written by Graph.save")
        facts = json.loads(metadata["facts"])
        nodes = Nodes(**facts["nodes"])
        if tensors["scores"].shape != nodes.is_edge.shape:
            raise ValueError("its scores are not of its nodes")
        return cls(nodes, about=facts["about"], **tensors)


def _ending(path: str | os.PathLike[str]) -> str:
    ending = Path(path).suffix
    if ending not in (".json", ".safetensors"):
        raise ValueError(f"edges are saved as .json or .safetensors, not as {Path(path).name!r}")
    return ending
