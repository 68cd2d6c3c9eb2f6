"""TransformerLens's HookPoint, which also knows the layer of an audio encoder block."""

import re

import transformer_lens.hook_points


class HookPoint(transformer_lens.hook_points.HookPoint):
    """An identity that hooks attach to.

    TransformerLens reads the layer from the second part of the name, which is wrong for
    `audio_encoder.blocks.3.hook_resid_pre`.
    """

    def layer(self) -> int:
        """The layer of `blocks.{l}.…` and of `audio_encoder.blocks.{l}.…`.

        Raises:
            ValueError: for a hook point outside the blocks.
        """
        match = re.search(r"(?:^|\.)blocks\.(\d+)\.", self.name or "")
        if match is None:
            raise ValueError(f"hook point {self.name!r} is not inside a block, so it has no layer")
        return int(match[1])
