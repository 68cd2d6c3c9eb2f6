"""What the specialists are for: answers without them, against as many random heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.listening import Head, check_heads
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.data.knock_out import right_answers_without
from lens_audio.stats import Interval, over_draws, paired_difference, wilson


@dataclass(frozen=True, eq=False)
class KnockOut:
    """Answers of the model as it is, without the specialists, and without random heads.

    `probs` are the right answer's, among the choices: where accuracy is near its ceiling they show
    what it hides. The first row is the model as it is, the second without the specialists, and
    the others are the random draws.
    """

    heads: list[Head]
    draws: list[list[Head]]
    correct: Bool[Tensor, "cut item"]
    probs: Float[Tensor, "cut item"]

    def __repr__(self) -> str:
        parts = "; ".join(f"{name} {found}" for name, found in self.accuracies.items())
        return f"KnockOut({self.correct.shape[1]} items; accuracy: {parts})"

    @property
    def accuracies(self) -> dict[str, Interval]:
        """Each with a 95 % interval: Wilson, and for the random heads over the draws."""
        return {
            "all heads": wilson(self.correct[0]),
            "specialists knocked out": wilson(self.correct[1]),
            "random heads knocked out": over_draws(self.correct[2:]),
        }

    @property
    def drop_difference(self) -> Interval:
        """How much more accuracy the specialists' loss costs than the random heads'."""
        return paired_difference(self.correct[2:], self.correct[1])

    @property
    def prob_drop_difference(self) -> Interval:
        """The same of the right answer's probability among the choices."""
        return paired_difference(self.probs[2:], self.probs[1])


def random_heads(
    n_layers: int, n_heads: int, k: int, n_draws: int, seed: int, but: Sequence[Head] = ()
) -> list[list[Head]]:
    """Draws of k different heads each, none of them in `but`.

    Raises:
        ValueError: if fewer than k are left, or no draws are asked for.
    """
    taken = set(but)
    left = [(l, h) for l in range(n_layers) for h in range(n_heads) if (l, h) not in taken]
    if not 1 <= k <= len(left):
        raise ValueError(f"cannot draw {k} random heads: {len(left)} are left besides those chosen")
    if n_draws < 1:
        raise ValueError(f"n_draws must be at least 1, not {n_draws}")
    rng = np.random.default_rng(seed)
    return [
        [left[i] for i in sorted(rng.choice(len(left), k, replace=False))] for _ in range(n_draws)
    ]


@torch.no_grad()
def knock_out(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    heads: Sequence[Head],
    *,
    n_draws: int = 10,
    seed: int = 0,
    queries: str = "text",
    draw_from_all: bool = False,
    batch_size: int = 16,
    verbose: bool = True,
) -> KnockOut:
    """Forbid heads to attend to the audio, and as many random heads, in several draws.

    Choices are told apart by their first token.

    Args:
        queries: from where the audio is forbidden: from every text position, so that nothing these
            heads read of the audio reaches the answer, or from the last prompt position alone,
            where the mass is measured and which other positions may already have told of the audio.
        draw_from_all: random heads may be among `heads` too; otherwise they never are.

    Raises:
        ValueError: for heads that do not exist, too few other heads to draw from, or hooks set on
            the model.
    """
    model.check_no_hooks()
    check_items(items, least=2, needs=("answer",))
    cfg = model.cfg
    check_heads(heads, cfg.n_layers, cfg.n_heads)
    but = () if draw_from_all else heads
    draws = random_heads(cfg.n_layers, cfg.n_heads, len(heads), n_draws, seed, but)
    correct, probs = right_answers_without(
        model, items, [[], list(heads), *draws],
        queries=queries, batch_size=batch_size, verbose=verbose,
    )  # fmt: skip
    return KnockOut(list(heads), draws, correct, probs)
