"""The nodes of a model: what sends, what receives, and which of them come earlier."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lens_audio.sites import head_name

LETTERS = ("q", "k", "v")


def among(names: Sequence[str], chosen: Iterable[str], what: str) -> Bool[Tensor, " node"]:
    """Which nodes are chosen.

    Raises:
        ValueError: for a node that does not exist, with those that do.
    """
    chosen = {chosen} if isinstance(chosen, str) else set(chosen)
    unknown = sorted(chosen - set(names))
    if unknown:
        raise ValueError(f"no {what} {unknown}; there are {', '.join(dict.fromkeys(names))}")
    return torch.tensor([name in chosen for name in names])


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

    Of the encoder the first sender is `frames`, what enters its block 0, and the last receiver `audio`,
    its final residual stream, of which the pool and the projector make what `embed` has of the sound.

    With `groups` of positions each node is split by them: `L0H1 @audio` is what the head writes, or
    reads, at positions of that group. An edge stays at its position, so it stays in its group; what
    moves between positions is attention, inside a node.
    """

    n_layers: int
    n_heads: int
    kv_heads: int
    groups: tuple[str, ...] = ()
    part: str = "decoder"  # or "encoder"

    @classmethod
    def of(cls, cfg: Any, part: str = "decoder") -> "Nodes":
        """The nodes of a model with this config.

        Raises:
            ValueError: for another part.
        """
        if part not in ("decoder", "encoder"):
            raise ValueError(f"part must be 'decoder' or 'encoder', not {part!r}")
        sizes = cfg if part == "decoder" else cfg.audio
        return cls(sizes.n_layers, sizes.n_heads, sizes.kv_heads, part=part)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> "Nodes":
        """Of its fields, as JSON holds them."""
        return cls(**facts | {"groups": tuple(facts["groups"])})

    @cached_property
    def whole(self) -> "Nodes":
        """The same, not split by position."""
        return replace(self, groups=())

    def split(
        self, matrix: Shaped[Tensor, "*example sender receiver"]
    ) -> Shaped[Tensor, "*example whole_sender whole_receiver group"]:
        """A matrix of these nodes as one of whole nodes for each group."""
        n = max(1, len(self.groups))
        by_group = matrix.unflatten(-1, (-1, n)).unflatten(-3, (-1, n))
        return by_group.diagonal(dim1=-3, dim2=-1)

    def joined(
        self, by_group: Shaped[Tensor, "*example whole_sender whole_receiver group"]
    ) -> Shaped[Tensor, "*example sender receiver"]:
        """The reverse of `split`; zero between groups."""
        return torch.diag_embed(by_group).transpose(-3, -2).flatten(-2).flatten(-3, -2)

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names, in order."""
        names = ["embed" if self.part == "decoder" else "frames"]
        for layer in range(self.n_layers):
            names += [head_name(layer, head) for head in range(self.n_heads)]
            names.append(f"MLP{layer}")
        return tuple(self._in_groups(name, group) for name in names for group in self._groups)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """Names and inputs, in order."""
        found = []
        for layer in range(self.n_layers):
            found += [Receiver(head_name(layer, head), "q") for head in range(self.n_heads)]
            for letter in "kv":
                found += [Receiver(f"L{layer}KV{head}", letter) for head in range(self.kv_heads)]
            found.append(Receiver(f"MLP{layer}", "resid"))
        found.append(Receiver(self.end, "resid"))
        return tuple(
            Receiver(self._in_groups(node, group), input)
            for node, input in found
            for group in self._groups
        )

    @property
    def _groups(self) -> tuple[str, ...]:
        return self.groups or ("",)

    @staticmethod
    def _in_groups(name: str, group: str) -> str:
        return f"{name} @{group}" if group else name

    @property
    def end(self) -> str:
        """The last receiver."""
        return "logits" if self.part == "decoder" else "audio"

    @property
    def prefix(self) -> str:
        """What hook names of this part begin with."""
        return "" if self.part == "decoder" else "audio_encoder."

    def hook(self, layer: int, name: str) -> str:
        """The hook point of a block."""
        return f"{self.prefix}blocks.{layer}.{name}"

    @property
    def written(self) -> list[str]:
        """The hook points that tell what senders write: the embeddings, then z and the MLPs by layer."""
        sites = ("attn.hook_z", "hook_mlp_out")
        inside = [self.hook(layer, site) for site in sites for layer in range(self.n_layers)]
        return [f"{self.prefix}hook_embed", *inside]

    @property
    def last_stage(self) -> int:
        """That of the logits."""
        return 2 * self.n_layers + 1

    def senders_of(self, stage: int) -> slice:
        """Where a stage's senders (the embeddings, a layer's heads, or an MLP) are in the matrix of
        whole nodes.
        """
        if stage == 0:
            return slice(0, 1)
        layer, is_mlp = divmod(stage - 1, 2)
        start = 1 + layer * (self.n_heads + 1)
        end = start + self.n_heads
        return slice(end, end + 1) if is_mlp else slice(start, end)

    def receivers_of(self, stage: int, letter: str | None = None) -> slice:
        """Where a stage's receivers are in the matrix of whole nodes; of heads all, or one of q, k
        and v.
        """
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
        whole = self.whole
        width = self.n_heads + 2 * self.kv_heads + 1
        from_stage = torch.zeros(1 + self.n_layers * (self.n_heads + 1), dtype=torch.long)
        to_stage = torch.zeros(1 + self.n_layers * width, dtype=torch.long)
        for stage in range(self.last_stage):
            from_stage[whole.senders_of(stage)] = stage
            to_stage[whole.receivers_of(stage + 1)] = stage + 1
        later = from_stage[:, None] < to_stage[None]
        return self.joined(later[..., None].expand(-1, -1, len(self._groups)))

    def leaving(self, senders: Iterable[str]) -> Bool[Tensor, "sender receiver"]:
        """All edges that leave some nodes.

        Raises:
            ValueError: for a node that sends nothing, with those that do.
        """
        return self.is_edge & among(self.senders, senders, "sender")[:, None]

    def matrix_of(self, edges: Iterable[Sequence[str]]) -> Bool[Tensor, "sender receiver"]:
        """Some edges: (sender, receiver, input), or (sender, receiver) into an MLP or the logits.

        Raises:
            ValueError: for what is no edge.
        """
        found = torch.zeros_like(self.is_edge)
        for edge in edges:
            if isinstance(edge, str) or len(edge) not in (2, 3):
                raise ValueError(f"an edge is (sender, receiver, input), not {edge!r}")
            found[self.place(*edge)] = True
        return found

    def place(self, sender: str, receiver: str, input: str = "resid") -> tuple[int, int]:
        """The row and the column of an edge.

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
        if not bool(self.is_edge[row, column]):
            raise ValueError(f"{sender} is not earlier than {wanted}, so it tells it nothing")
        return row, column

    @cached_property
    def inputs_of(self) -> dict[str, list[int]]:
        """The receivers, by number, that each node reads with: of a head its query's, and the keys'
        and values' of its key-value head; split by position those at any group, but that of the
        last position only at that one. The last receiver, the logits, is one node.
        """
        numbers = {receiver: i for i, receiver in enumerate(self.receivers)}
        found: dict[str, list[int]] = {name: [] for name in self.senders[: len(self._groups)]}

        def reads(name: str, *inputs: tuple[str, str], group: str) -> None:
            named = [Receiver(self._in_groups(node, group), input) for node, input in inputs]
            found.setdefault(name, []).extend(numbers[receiver] for receiver in named)

        for group in self._groups:
            reads(self.end, (self.end, "resid"), group=group)
            for layer in range(self.n_layers):
                mlp = f"MLP{layer}"
                reads(self._in_groups(mlp, group), (mlp, "resid"), group=group)
                for head in range(self.n_heads):
                    shared = f"L{layer}KV{head // (self.n_heads // self.kv_heads)}"
                    name = self._in_groups(head_name(layer, head), group)
                    reads(name, (head_name(layer, head), "q"), group=group)
                    for other in self._groups:
                        if other != "last" or group == "last":
                            reads(name, (shared, "k"), (shared, "v"), group=other)
        return found
