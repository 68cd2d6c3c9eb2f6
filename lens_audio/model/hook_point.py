"""TransformerLens's HookPoint, which also knows its layer in the encoder, and the forward it is in."""

import re
from dataclasses import dataclass

import transformer_lens.hook_points
from jaxtyping import Bool
from torch import Tensor


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
    attention_mask: Bool[Tensor, "batch total"] | None = None
    audio_mask: Bool[Tensor, "batch prompt"] | None = None
    clips_by_row: list[range] | None = None  # of the prompt that this forward read


class HookPoint(transformer_lens.hook_points.HookPoint):
    """An identity that hooks attach to.

    TransformerLens reads the layer from the second part of the name, which is wrong for
    `audio_encoder.blocks.3.hook_resid_pre`. In a decoder it also knows the forward it is in.
    """

    forward_info: ForwardInfo | None = None

    def layer(self) -> int:
        """The layer of `blocks.{l}.…` and of `audio_encoder.blocks.{l}.…`.

        Raises:
            ValueError: for a hook point outside the blocks.
        """
        match = re.search(r"(?:^|\.)blocks\.(\d+)\.", self.name or "")
        if match is None:
            raise ValueError(f"hook point {self.name!r} is not inside a block, so it has no layer")
        return int(match[1])
