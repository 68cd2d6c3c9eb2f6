"""One prefix, many continuations: attention over keys that are stored once for all of them."""

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lens_audio.model.kv_cache import KeyValueCache

# Up to this many new positions, reading the prefix in place beats copying it for every row.
SHORT_CONTINUATION = 64


class SharedPrefix:
    """A layer's keys and values of the positions that all rows of a batch have in common.

    Row r continues example r % n_examples. It stands where a key-value cache entry does, and
    nothing is appended to it.
    """

    def __init__(
        self,
        keys: Float[Tensor, "example past kv_head d_head"],
        values: Float[Tensor, "example past kv_head d_head"],
    ) -> None:
        self.keys, self.values = keys, values

    def append(
        self,
        keys: Float[Tensor, "row new kv_head d_head"],
        values: Float[Tensor, "row new kv_head d_head"],
    ) -> tuple[
        Float[Tensor, "row total kv_head d_head"], Float[Tensor, "row total kv_head d_head"]
    ]:
        """The prefix, copied for every row, with the row's own keys and values behind it."""
        copies = keys.shape[0] // self.keys.shape[0]
        return (
            torch.cat([self.keys.repeat(copies, 1, 1, 1), keys], dim=1),
            torch.cat([self.values.repeat(copies, 1, 1, 1), values], dim=1),
        )

    def attend(
        self,
        q: Float[Tensor, "row new head d_head"],
        k: Float[Tensor, "row own kv_head d_head"],
        v: Float[Tensor, "row own kv_head d_head"],
        mask: Bool[Tensor, "#row 1 #new total"] | None,
    ) -> Float[Tensor, "row new head d_head"]:
        """z of every row, over the prefix and the row's own positions, without copying the prefix.

        All rows of an example stand in line as queries of its prefix: one matrix product a head.
        """
        n_rows, n_new, n_heads, d_head = q.shape
        n_examples, n_past, n_kv, _ = self.keys.shape
        sizes = {"example": n_examples, "kv": n_kv, "new": n_new}
        lined_up = "(cell example) new (kv group) d -> example kv (cell group new) d"
        q = q * d_head**-0.5
        queries = rearrange(q, lined_up, example=n_examples, kv=n_kv)
        to_prefix = rearrange(
            queries @ self.keys.permute(0, 2, 3, 1),
            "example kv (cell group new) past -> (cell example) kv (group new) past",
            cell=n_rows // n_examples,
            new=n_new,
        )
        own = rearrange(q, "row new (kv group) d -> row kv (group new) d", kv=n_kv)
        scores = torch.cat([to_prefix, own @ k.permute(0, 2, 3, 1)], dim=-1)
        if mask is not None:
            scores = scores.view(n_rows, n_heads, n_new, -1).masked_fill(~mask, -torch.inf)
            scores = scores.view(n_rows, n_kv, -1, scores.shape[-1])
        pattern = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype)
        if mask is not None:
            pattern = pattern.nan_to_num(0.0)  # a padding query that may read nothing
        from_prefix = rearrange(
            pattern[..., :n_past],
            "(cell example) kv (group new) past -> example kv (cell group new) past",
            example=n_examples,
            new=n_new,
        ) @ self.values.transpose(1, 2)
        z = rearrange(
            from_prefix,
            "example kv (cell group new) d -> (cell example) new (kv group) d",
            cell=n_rows // n_examples,
            **sizes,
        )
        from_own = pattern[..., n_past:] @ v.transpose(1, 2)
        return z + rearrange(from_own, "row kv (group new) d -> row new (kv group) d", new=n_new)


class GrowingContinuation(SharedPrefix):
    """A shared prefix whose rows keep what they read after it."""

    def __init__(
        self,
        keys: Float[Tensor, "example past kv_head d_head"],
        values: Float[Tensor, "example past kv_head d_head"],
    ) -> None:
        super().__init__(keys, values)
        self.frozen = False
        self.own_keys, self.own_values = keys[:, :0], values[:, :0]

    def append(
        self,
        keys: Float[Tensor, "row new kv_head d_head"],
        values: Float[Tensor, "row new kv_head d_head"],
    ) -> tuple[
        Float[Tensor, "row total kv_head d_head"], Float[Tensor, "row total kv_head d_head"]
    ]:
        """The prefix, copied for every row, with all the row's own keys and values behind it."""
        return super().append(*self._grown(keys, values))

    def attend(
        self,
        q: Float[Tensor, "row new head d_head"],
        k: Float[Tensor, "row own kv_head d_head"],
        v: Float[Tensor, "row own kv_head d_head"],
        mask: Bool[Tensor, "#row 1 #new total"] | None,
    ) -> Float[Tensor, "row new head d_head"]:
        """As of a shared prefix; the new keys and values are kept."""
        return super().attend(q, *self._grown(k, v), mask)

    def whole(self) -> tuple[Tensor, Tensor]:
        """The prefix and what each row has read after it, copied: keys and values."""
        return super().append(self.own_keys, self.own_values)

    def select(self, rows: Int[Tensor, " row"]) -> None:
        """Go on with copies of these rows' own keys and values."""
        self.own_keys, self.own_values = self.own_keys[rows], self.own_values[rows]

    def cut(self, length: int) -> None:
        """Forget all own positions but the first."""
        self.own_keys, self.own_values = self.own_keys[:, :length], self.own_values[:, :length]

    def replace_by(self, keys: Tensor, values: Tensor) -> None:
        """Hold these of all positions, row by row."""
        n_examples, n_prefix = self.keys.shape[:2]
        self.keys, self.own_keys = keys[:n_examples, :n_prefix], keys[:, n_prefix:]
        self.values, self.own_values = values[:n_examples, :n_prefix], values[:, n_prefix:]

    def _grown(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        keys = torch.cat([self.own_keys, keys], dim=1)
        values = torch.cat([self.own_values, values], dim=1)
        if not self.frozen:
            self.own_keys, self.own_values = keys, values
        return keys, values


class Continuations(KeyValueCache):
    """A key-value cache in which many rows continue each example, whose own past is stored once.

    Row r continues example r % n_examples; there is one row an example until `select` says
    otherwise.
    """

    entries: list[GrowingContinuation]  # type: ignore[assignment]
    n_prefix: int  # positions of the examples' own past

    @classmethod
    def of(cls, past: KeyValueCache) -> "Continuations":
        """Of the examples that were read into this cache, which stays as it is."""
        continuations = cls(0)
        for entry in past.entries:
            assert entry.past_keys is not None
            assert entry.past_values is not None
            continuations.entries.append(GrowingContinuation(entry.past_keys, entry.past_values))
        continuations.by_position = dict(past.by_position)
        continuations.n_prefix, continuations.first = past.length, past.first
        return continuations

    def __getitem__(self, layer: int) -> GrowingContinuation:  # type: ignore[override]
        return self.entries[layer]

    def select(self, rows: Int[Tensor, " row"]) -> None:
        """Go on with copies of these rows; copy i must continue the example that row i stands for."""
        self.by_position = {name: x[rows] for name, x in self.by_position.items()}
        for entry in self.entries:
            entry.select(rows.to(entry.own_keys.device))

    def replace_by(self, other: KeyValueCache) -> None:
        """Hold what another cache holds of the same rows, whose prefixes are still alike."""
        for entry, new in zip(self.entries, other.entries, strict=True):
            assert new.past_keys is not None
            assert new.past_values is not None
            entry.replace_by(new.past_keys, new.past_values)
        self.by_position = other.by_position

    def cut(self, length: int) -> None:
        """Forget all but the first positions, the prefix at least."""
        self.by_position = {name: x[:, :length] for name, x in self.by_position.items()}
        for entry in self.entries:
            entry.cut(length - self.n_prefix)


def joined(parts: Sequence[KeyValueCache], order: Sequence[int] | None = None) -> KeyValueCache:
    """One cache of the rows of all, in this order, padded on the left; the parts stay as they are."""

    def rows(tensors: Iterable[Tensor]) -> list[Tensor]:
        """One by one, in order; whole batches where they stay in theirs."""
        if order is None:
            return list(tensors)
        single = [row for tensor in tensors for row in tensor.split(1)]
        return [single[row] for row in order]

    length = max(part.length for part in parts)
    whole = KeyValueCache(len(parts[0].entries))
    for name in parts[0].by_position:
        padded = [_padded(x, length) for x in rows(part.by_position[name] for part in parts)]
        whole.append(name, torch.cat(padded))
    for layer, entry in enumerate(whole.entries):
        keys, values = zip(*(part[layer].whole() for part in parts), strict=True)
        entry.begin(rows(keys), rows(values), length)
    return whole


def _padded(x: Shaped[Tensor, "row pos ..."], length: int) -> Shaped[Tensor, "row length ..."]:
    """Zeros before what is shorter."""
    n_rows, n_pos, *rest = x.shape
    return torch.cat([x.new_zeros(n_rows, length - n_pos, *rest), x], dim=1)
