"""Keys and values of the positions already read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lens_audio.config import BlockConfig


class KeyValueCacheEntry:
    """One layer's keys (after rotary embedding) and values.

    Room is doubled when it runs out, so that generation copies each key a constant number of
    times. Under autograd it concatenates instead: writing in place would break the graph.
    """

    def __init__(self) -> None:
        self.frozen = False
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    @property
    def past_keys(self) -> Float[Tensor, "batch past head d_head"] | None:
        """The keys of the positions read, rotated; None where none has been."""
        return None if self._keys is None else self._keys[:, : self.length]

    @property
    def past_values(self) -> Float[Tensor, "batch past head d_head"] | None:
        """The values of the positions read; None where none has been."""
        return None if self._values is None else self._values[:, : self.length]

    def append(
        self,
        keys: Float[Tensor, "batch new head d_head"],
        values: Float[Tensor, "batch new head d_head"],
    ) -> tuple[Float[Tensor, "batch total head d_head"], Float[Tensor, "batch total head d_head"]]:
        """All keys and values with the new ones last; they are kept unless the cache is frozen."""
        total = self.length + keys.shape[1]
        if self._keys is None or self._values is None:
            if not self.frozen:
                self._keys, self._values, self.length = keys, values, total
            return keys, values
        if self.frozen or torch.is_grad_enabled():
            all_keys = torch.cat([self._keys[:, : self.length], keys], dim=1)
            all_values = torch.cat([self._values[:, : self.length], values], dim=1)
            if not self.frozen:
                self._keys, self._values, self.length = all_keys, all_values, total
            return all_keys, all_values
        if total > self._keys.shape[1]:
            self._keys = _with_room([self._keys[:, : self.length]], self.length, 2 * total)
            self._values = _with_room([self._values[:, : self.length]], self.length, 2 * total)
        self._keys[:, self.length : total] = keys
        self._values[:, self.length : total] = values
        self.length = total
        return self._keys[:, :total], self._values[:, :total]

    def begin(self, keys: Sequence[Tensor], values: Sequence[Tensor], length: int) -> None:
        """Copy keys and values of several batches, one below the other; shorter ones end alike."""
        self._keys, self._values = (_with_room(x, length, 2 * length) for x in (keys, values))
        self.length = length

    def whole(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions.

        Raises:
            ValueError: where none has been read.
        """
        if self.past_keys is None or self.past_values is None:
            raise ValueError("no position has been read into this cache")
        return self.past_keys, self.past_values

    def part(self, rows: slice, start: int) -> "KeyValueCacheEntry":
        """Of some rows, from a position on; in the memory of this one, its room included."""
        part = KeyValueCacheEntry()
        if self._keys is not None and self._values is not None:
            part.length = self.length - start
            part._keys, part._values = self._keys[rows, start:], self._values[rows, start:]
        return part

    def cut(self, length: int) -> None:
        """Forget all but the first positions."""
        if self._keys is None or self._values is None:
            return
        self.length = min(length, self.length)
        # Narrowed, not only counted less: the next append must not write into kept activations.
        self._keys = self._keys[:, : self.length] if length else None
        self._values = self._values[:, : self.length] if length else None


@dataclass(frozen=True, eq=False)
class First:
    """Of the forward that began a sequence; one object for all forwards over one cache."""

    n_positions: int = 0
    audio_mask: Bool[Tensor, "batch prompt"] | None = None
    prompt: Any = None  # the AudioPrompt, if it had one


class KeyValueCache:
    """One entry a layer, and what is kept by position: at least the mask of the positions read.

    Pass it as `past_kv_cache=`; the calls are those of TransformerLens's key-value cache. `first`
    tells of the forward that began the sequence.
    """

    def __init__(self, n_layers: int) -> None:
        self.entries = [KeyValueCacheEntry() for _ in range(n_layers)]
        self.by_position: dict[str, Shaped[Tensor, "batch past ..."]] = {}
        self.first = First()
        self.frozen = False

    @classmethod
    def init_cache(
        cls, cfg: BlockConfig, device: object = None, batch_size: int = 1
    ) -> "KeyValueCache":
        """An empty cache; device and batch size follow the first keys, as in no other argument."""
        return cls(cfg.n_layers)

    def __getitem__(self, layer: int) -> KeyValueCacheEntry:
        return self.entries[layer]

    @property
    def length(self) -> int:
        """How many positions have been read."""
        mask = self.previous_attention_mask
        return 0 if mask is None else mask.shape[1]

    def freeze(self) -> None:
        """From now on new keys and values are used but not kept."""
        self._set_frozen(True)

    def unfreeze(self) -> None:
        """From now on new keys and values are kept again."""
        self._set_frozen(False)

    @property
    def previous_attention_mask(self) -> Bool[Tensor, "batch past"] | None:
        """False at padding among the positions read; None where none has been."""
        return self.by_position.get("attention_mask")

    def append_attention_mask(
        self, attention_mask: Bool[Tensor, "batch new"]
    ) -> Bool[Tensor, "batch total"]:
        """The mask of the positions read and of these new ones, which is kept unless it is frozen."""
        return self.append("attention_mask", attention_mask)

    def append(
        self, name: str, new: Shaped[Tensor, "batch new ..."]
    ) -> Shaped[Tensor, "batch total ..."]:
        """What is kept under a name, the new positions last; they are kept unless it is frozen.

        Raises:
            ValueError: for another batch.
        """
        past = self.by_position.get(name)
        if past is not None and len(past) != len(new):
            raise ValueError(
                f"the cache holds a batch of {len(past)}, the input is one of {len(new)}"
            )
        full = new if past is None else torch.cat([past, new], dim=1)
        if not self.frozen:
            self.by_position[name] = full
        return full

    def take_rows(self, whole: "KeyValueCache", rows: slice) -> None:
        """Share the memory of these rows of a cache that ends with the same positions."""
        start = whole.length - self.length
        self.entries = [entry.part(rows, start) for entry in whole.entries]

    def replace_by(self, other: "KeyValueCache") -> None:
        """Hold what another cache holds."""
        self.__dict__.update(other.__dict__)

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """Inside, an exception leaves the cache as it was: whole layers, of the positions before."""
        before, length = dict(vars(self)), self.length
        try:
            yield
        except BaseException:
            vars(self).update(before)
            self.cut(length)
            raise

    def cut(self, length: int) -> None:
        """Forget all but the first positions."""
        kept = {name: x[:, :length] for name, x in self.by_position.items()}
        self.by_position = kept if length else {}
        if not length:
            self.first = First()
        for entry in self.entries:
            entry.cut(length)

    def _set_frozen(self, frozen: bool) -> None:
        self.frozen = frozen
        for entry in self.entries:
            entry.frozen = frozen


def _with_room(
    batches: Sequence[Float[Tensor, "_batch _past head d_head"]], length: int, capacity: int
) -> Float[Tensor, "rows capacity head d_head"]:
    """A copy with room, laid out head by head in memory: attention reads it twice as fast.

    Before what is shorter than `length` stand zeros.
    """
    _, _, n_heads, d_head = batches[0].shape
    n_rows = [len(batch) for batch in batches]
    roomy = batches[0].new_empty(sum(n_rows), n_heads, capacity, d_head).transpose(1, 2)
    for rows, batch in zip(roomy.split(n_rows), batches, strict=True):
        start = length - batch.shape[1]
        rows[:, :start], rows[:, start:length] = 0, batch
    return roomy
