"""The nodes of a model: what sends, what receives, and which of them come earlier."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.sites import head_name

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
