"""TransformerLens's HookPoint, which also knows its layer in the encoder, and the forward it is in."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import transformer_lens.hook_points
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import LensHandle


@dataclass
class ForwardInfo:
    """What a hook function may ask about the forward in progress; one object for a whole decoder.

    With a key-value cache an activation's first position is position `n_past` of the sequence. An
    activation's last position is always the sequence's last.
    """

    n_past: int = 0
    n_total: int = 0  # positions of the sequence so far, those of this forward included
    n_first: int = 0  # positions of the forward that began the sequence
    n_prompt: int | None = None  # positions before the generated ones, while generating
    generated_from: Any = None  # the AudioPrompt, while generating; it may be read again, longer
    start_at_layer: int | None = None  # given: the input was a residual stream
    stop_at_layer: int | None = None  # given: there will be no logits
    attention_mask: Bool[Tensor, "batch total"] | None = None
    audio_mask: Bool[Tensor, "batch prompt"] | None = None
    clips_by_row: list[range] | None = None  # of the prompt that this forward read
    prompt: Any = None  # the AudioPrompt that began the sequence, if one did
    sequence: Any = None  # the same object in all forwards over one key-value cache
    past_kv_cache: Any = None  # that cache, if there is one, told of the new positions
    in_progress: bool = False
    # What leaves the last block, from a hook of `hook_embed` that has run the blocks itself. It may
    # add rows; a hook of `unembed.hook_out` then takes them off.
    final: Float[Tensor, "rows new d_model"] | None = None

    @property
    def begins(self) -> bool:
        """Whether a sequence begins here: not over a cache, nor where `generate` reads it again."""
        is_longer = self.n_prompt is not None and self.n_total > self.n_prompt
        return self.n_past == 0 and self.n_total == self.n_first and not is_longer


def only_reads(function: Callable) -> Callable:
    """Declare that a hook function never edits in place the activation it is given.

    A hook point then need not copy the activation for it.
    """
    function.only_reads = True  # type: ignore[attr-defined]
    return function


class HookPoint(transformer_lens.hook_points.HookPoint):
    """An identity that hooks attach to.

    TransformerLens reads the layer from the second part of the name, which is wrong for
    `audio_encoder.blocks.3.hook_resid_pre`. In a decoder it also knows the forward it is in.
    """

    forward_info: ForwardInfo | None = None

    @property
    def may_be_edited(self) -> bool:
        """Whether a hook is set that could edit the activation in place."""
        readers = sum(getattr(handle.user_hook, "only_reads", False) for handle in self.fwd_hooks)
        return len(self._forward_hooks) > readers

    @property
    def is_bare(self) -> bool:
        """Whether no hook of any kind is set, so that `set_aside` would do nothing."""
        return not (self.fwd_hooks or self.bwd_hooks or self._forward_hooks or self._backward_hooks)

    def forward(self, x: Tensor) -> Tensor:
        """The activation; a copy for hooks that may edit it.

        What arrives here may belong to the caller, to a cache, or to another hook point.
        """
        return x.clone() if self.may_be_edited else x

    @contextmanager
    def set_aside(self, keeps: Callable[[LensHandle], bool]) -> Iterator[None]:
        """Inside, only the hooks that `keeps` selects are set; afterwards all are back as they were."""
        handles = self.fwd_hooks, self.bwd_hooks
        functions = self._forward_hooks, self._backward_hooks
        contents = [dict(each) for each in functions]
        self.fwd_hooks, self.bwd_hooks = ([h for h in each if keeps(h)] for each in handles)
        kept = {handle.hook.id for handle in (*self.fwd_hooks, *self.bwd_hooks)}
        for each in functions:  # the same dictionaries, which the handles refer to
            for number in each.keys() - kept:
                del each[number]
        try:
            yield
        finally:
            self.fwd_hooks, self.bwd_hooks = handles
            for each, content in zip(functions, contents, strict=True):
                each.clear()
                each.update(content)

    def layer(self) -> int:
        """The layer of `blocks.{l}.…` and of `audio_encoder.blocks.{l}.…`.

        Raises:
            ValueError: for a hook point outside the blocks.
        """
        match = re.search(r"(?:^|\.)blocks\.(\d+)\.", self.name or "")
        if match is None:
            raise ValueError(f"hook point {self.name!r} is not inside a block, so it has no layer")
        return int(match[1])
