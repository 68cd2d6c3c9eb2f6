"""A circuit as one dense matrix: what each sender tells each receiver, with the names of both."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lens_audio import files
from lens_audio.analysis.circuits import prune
from lens_audio.analysis.circuits.nodes import Nodes, Receiver

KIND = "lens_audio edges"  # what a saved file says it holds


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
        return float(self.scores[self.nodes.place(sender, receiver, input)])

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

    def by_influence(self, share: float | int) -> "Graph":
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
        metadata = {"kind": KIND, "facts": json.dumps(facts)}
        return files.write_bytes(path, files.in_order(serialize(tensors, metadata)))

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
        nodes = Nodes.from_dict(held["nodes"])
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
        nodes = Nodes.from_dict(facts["nodes"])
        if tensors["scores"].shape != nodes.is_edge.shape:
            raise ValueError("its scores are not of its nodes")
        return cls(nodes, about=facts["about"], **tensors)


def _ending(path: str | os.PathLike[str]) -> str:
    ending = Path(path).suffix
    if ending not in (".json", ".safetensors"):
        raise ValueError(f"edges are saved as .json or .safetensors, not as {Path(path).name!r}")
    return ending
