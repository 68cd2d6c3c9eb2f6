"""What contrastive decoding contrasts with and how much, whichever implementation runs the model."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.inputs import AudioPrompt
from lens_audio.steering.audio_silence.contrastive import contrasted
from lens_audio.steering.captions import Caption, check_caption

AGAINST = ("silence", "noise", "without_text")


@dataclass(frozen=True, eq=False)
class ContrastiveSettings:
    """The fields of `ContrastiveDecoding`, checked."""

    alpha: float | int = 1.0
    against: str | AudioPrompt = "silence"
    caption: Caption | None = None
    plausibility: float | int = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        by_audio = self.against in ("silence", "noise")
        if not math.isfinite(self.alpha) or (by_audio and self.alpha < 0):
            raise ValueError(
                f"alpha must be a finite number of at least 0, not {self.alpha}; below 0, which leads "
                "towards the other prompt, only against a prompt or without_text"
            )
        if not 0 <= self.plausibility <= 1:
            raise ValueError(f"plausibility is a share from 0 to 1, not {self.plausibility}")
        if not isinstance(self.against, AudioPrompt) and self.against not in AGAINST:
            raise ValueError(f"against must be one of {AGAINST} or a prompt, not {self.against!r}")
        if (self.against == "without_text") != (self.caption is not None):
            raise ValueError(
                'against="without_text" takes away caption="…", an exact part of the question\'s '
                "text (or a list, one a row; or one with {caption} in it); nothing else takes a caption"
            )
        if self.caption is not None:
            check_caption(self.caption)

    def __repr__(self) -> str:
        against = self.against if isinstance(self.against, str) else repr(self.against)
        cut = f", plausibility {self.plausibility:g}" if self.plausibility else ""
        return f"ContrastiveDecoding(alpha {self.alpha:g} against {against}{cut})"

    @property
    def acts(self) -> bool:
        """Whether it changes anything at all."""
        return bool(self.alpha or self.plausibility)

    def led_away(
        self, plain: Float[Tensor, "*axes d_vocab"], other: Float[Tensor, "*axes d_vocab"]
    ) -> Float[Tensor, "*axes d_vocab"]:
        """A prompt's logits, led away from the other's, implausible tokens at -inf; in float32 at
        least.
        """
        out = contrasted(plain, other, self.alpha)
        if self.plausibility:
            least = plain.amax(-1, keepdim=True) + math.log(self.plausibility)
            out = out.masked_fill(plain < least, -torch.inf)
        return out
