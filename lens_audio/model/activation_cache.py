"""TransformerLens's ActivationCache, which knows its rows from its clips."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import transformer_lens
from torch import Tensor
from transformer_lens.utilities import Slice

from lens_audio.sites import is_by_clip


class ActivationCache(transformer_lens.ActivationCache):
    """The activations of a run, by hook name, with every method of TransformerLens's class.

    The decoder's activations are by row of the batch. Those before it (`audio_encoder.…`,
    `audio_projector.…`, `hook_audio_embed`) are by clip: all clips one after another in row order,
    of which a row may have none or several.

    Args:
        cache_dict: activations by hook name, [batch, …], or [audio, …] where they are by clip.
        model: the model that ran.
        has_batch_dim: False where the batch dimension was removed.
        clips_by_row: for each row the places of its spectrograms in the activations by clip, as
            `prompt.spectrograms_of(i)` gives them. `run_with_cache` and `generate` know it; in a cache
            made by hand it may be left out where nothing is by clip.
    """

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: Any,
        has_batch_dim: bool = True,
        clips_by_row: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(cache_dict, model, has_batch_dim)
        self.clips_by_row = None if clips_by_row is None else list(clips_by_row)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "ActivationCache":
        """A cache of some rows, each with all of its clips in order; this one stays as it is.

        One row chosen by its number loses its batch dimension, as in `remove_batch_dim`. Where no
        chosen row has a clip, activations by clip hold none: [0, …].

        Args:
            batch_slice: a row's number; a list, array or tensor of numbers; a boolean mask of the
                batch; a slice or TransformerLens's tuple for one; None for all rows. Negative
                numbers count from the last row.

        Raises:
            IndexError: for rows that the batch lacks.
            ValueError: for no row at all, and where the cache has no batch dimension or cannot
                know whose the clips are.
        """
        rows, of_row = self._rows(batch_slice), self._clips_of_each_row()
        self._check_lengths(len(of_row))
        clips = [clip for row in rows for clip in of_row[row]]
        ends = accumulate(len(of_row[row]) for row in rows)
        sliced = ActivationCache(
            {
                name: x if x.ndim == 0 else _take(x, clips if is_by_clip(name) else rows)
                for name, x in self.items()
            },
            self.model,
            clips_by_row=[
                range(end - len(of_row[row]), end) for row, end in zip(rows, ends, strict=True)
            ],
        )
        return sliced.remove_batch_dim() if _as_slice(batch_slice).mode == "int" else sliced

    def remove_batch_dim(self, batch_size: int | None = None) -> "ActivationCache":
        """Drop the batch dimension of a batch of one row, in place.

        Activations by clip lose their first axis only if the row has exactly one clip.

        Args:
            batch_size: how many rows there are, where the cache cannot know it.

        Raises:
            ValueError: for a batch of several rows.
        """
        if not self.has_batch_dim:
            super().remove_batch_dim()  # only warns
            return self
        n_rows = self._batch_size() if batch_size is None else batch_size
        if n_rows != 1:
            raise ValueError(
                f"a batch of {n_rows} rows keeps its batch dimension; choose one row with "
                "cache.apply_slice_to_batch_dim(i)"
            )
        self._check_lengths(1)
        for name, x in self.cache_dict.items():
            if x.ndim and len(x) == 1:
                self.cache_dict[name] = x[0]
        self.has_batch_dim = False
        return self

    def apply_ln_to_stack(
        self,
        residual_stack: Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """TransformerLens's, after checking `batch_slice` as `apply_slice_to_batch_dim` does.

        So does `logit_attrs`, which calls it.
        """
        self._check_rows(batch_slice)
        return super().apply_ln_to_stack(
            residual_stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim, recompute_ln
        )

    def logit_lens(self, **kwargs: Any) -> Any:
        """TransformerLens's, after checking `batch_slice` as `apply_slice_to_batch_dim` does."""
        self._check_rows(kwargs.get("batch_slice"))
        return super().logit_lens(**kwargs)

    def _batch_size(self) -> int:
        """How many rows the batch has."""
        if self.clips_by_row is not None:
            return len(self.clips_by_row)
        by_row = [x for name, x in self.items() if x.ndim and not is_by_clip(name)]
        if not by_row and self.cache_dict:
            raise ValueError(UNKNOWN_CLIPS)
        return len(by_row[0]) if by_row else 1

    def _rows(self, batch_slice: Any) -> list[int]:
        """The numbers of the rows that a slice chooses, from 0 on."""
        if not self.has_batch_dim:
            raise ValueError(
                "the cache has no batch dimension, so there are no rows to choose from; leave the "
                "slice of the batch out"
            )
        n_rows = self._batch_size()
        what = f"{batch_slice!r} in a batch of rows 0 to {n_rows - 1}"
        try:
            rows = np.arange(n_rows)[_as_slice(batch_slice).slice]
        except IndexError as error:
            raise IndexError(f"{what}: {error}") from None
        if rows.ndim > 1 or rows.size == 0:
            raise ValueError(f"{what} chooses no row; give a number, a list of them or a slice")
        return np.atleast_1d(rows).tolist()

    def _check_rows(self, batch_slice: Any) -> None:
        if _as_slice(batch_slice).mode != "identity":
            self._rows(batch_slice)

    def _clips_of_each_row(self) -> list[Sequence[int]]:
        if self.clips_by_row is not None:
            return self.clips_by_row
        if any(map(is_by_clip, self)):
            raise ValueError(UNKNOWN_CLIPS)
        return [()] * self._batch_size()

    def _check_lengths(self, n_rows: int) -> None:
        """ValueError for an activation whose first axis is not what its name says."""
        n_clips = None if self.clips_by_row is None else sum(map(len, self.clips_by_row))
        for name, x in self.items():
            n, what = (n_clips, "clips") if is_by_clip(name) else (n_rows, "rows")
            if x.ndim and n is not None and len(x) != n:
                raise ValueError(f"{name} has {len(x)} {what}, and the batch {n}")


UNKNOWN_CLIPS = (
    "this cache cannot know which of its clips belong to which row. Give them when it is made: "
    "ActivationCache(activations, model, clips_by_row=[prompt.spectrograms_of(i) for i in "
    "range(len(prompt))])"
)


def _as_slice(batch_slice: Any) -> Slice:
    return batch_slice if isinstance(batch_slice, Slice) else Slice(batch_slice)


def _take(x: Tensor, places: list[int]) -> Tensor:
    """x[places]; a view, which costs no memory, where they follow each other."""
    start, n = places[0] if places else 0, len(places)
    return x[start : start + n] if places == list(range(start, start + n)) else x[places]
