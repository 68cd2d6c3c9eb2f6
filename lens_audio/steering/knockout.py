"""What the specialists are for: answers without them, against as many random heads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.listening import Head, check_heads
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.data.knock_out import right_answers_without, search_backups
from lens_audio.sites import every_head, head_name
from lens_audio.stats import Interval, mean_intervals, over_draws, paired_difference, wilson

CEILING = 0.99  # probability of the right answer above which an item hardly shows what it loses
CUTS = ("none", "specialists", "all but the specialists", "all heads")  # what is knocked out
RANDOM_CUTS = "random heads"


@dataclass(frozen=True, eq=False)
class KnockOut:
    """Answers of the model as it is, and without sets of heads.

    `probs` are the right answer's, among the choices: where accuracy is near its ceiling they show
    what it hides. The rows are the model as it is; without the specialists; without all heads but
    the specialists; without any head; and without each random draw.
    """

    heads: list[Head]
    draws: list[list[Head]]
    correct: Bool[Tensor, "cut item"]
    probs: Float[Tensor, "cut item"]

    def __repr__(self) -> str:
        parts = "; ".join(f"{name} {found}" for name, found in self.accuracies.items())
        return f"KnockOut({self.correct.shape[1]} items; accuracy, knocked out: {parts})"

    @property
    def accuracies(self) -> dict[str, Interval]:
        """By what is knocked out, with a 95 % interval: Wilson's, of random heads over the draws."""
        found = {cut: wilson(right) for cut, right in zip(CUTS, self.correct, strict=False)}
        return found | {RANDOM_CUTS: over_draws(self.correct[len(CUTS) :])}

    @property
    def probabilities(self) -> dict[str, Interval]:
        """The right answer's mean probability, with a 95 % interval: a bootstrap over items, of
        random heads over the draws.
        """
        n = len(CUTS)
        low, high = mean_intervals(self.probs[:n])
        means = zip(CUTS, self.probs[:n].mean(1).tolist(), low.tolist(), high.tolist(), strict=True)
        found = {cut: Interval(*shares) for cut, *shares in means}
        return found | {RANDOM_CUTS: over_draws(self.probs[n:])}

    @property
    def all_but(self) -> Interval:
        """Accuracy where only the specialists may attend to the audio: are they sufficient?"""
        return self.accuracies[CUTS[2]]

    @property
    def all(self) -> Interval:
        """Accuracy where no head may attend to the audio."""
        return self.accuracies[CUTS[3]]

    def below_ceiling(self, ceiling: float = CEILING) -> "KnockOut":
        """The same of the items whose right answer the model as it is gives less than this
        probability: of an item that it is sure of, losing some of what it heard shows little.

        Raises:
            ValueError: if there are fewer than two.
        """
        inside = self.probs[0] < ceiling
        if int(inside.sum()) < 2:
            raise ValueError(
                f"{int(inside.sum())} of {len(inside)} items are below a ceiling of {ceiling:g}; ask "
                "harder ones, or give a higher ceiling"
            )
        return replace(self, correct=self.correct[:, inside], probs=self.probs[:, inside])

    @property
    def drop_difference(self) -> Interval:
        """How much more accuracy the specialists' loss costs than the random heads'."""
        return paired_difference(self.correct[len(CUTS) :], self.correct[1])

    @property
    def prob_drop_difference(self) -> Interval:
        """The same of the right answer's probability among the choices."""
        return paired_difference(self.probs[len(CUTS) :], self.probs[1])


def random_heads(
    n_layers: int, n_heads: int, k: int, n_draws: int, seed: int, but: Sequence[Head] = ()
) -> list[list[Head]]:
    """Draws of k different heads each, none of them in `but`.

    Raises:
        ValueError: if fewer than k are left, or no draws are asked for.
    """
    taken = set(but)
    left = [head for head in every_head(n_layers, n_heads) if head not in taken]
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
    """Forbid heads to attend to the audio; all others; all; and as many random ones, several times.

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
    everything = every_head(cfg.n_layers, cfg.n_heads)
    others = [head for head in everything if head not in set(heads)]
    correct, probs = right_answers_without(
        model, items, [[], list(heads), others, everything, *draws],
        queries=queries, batch_size=batch_size, verbose=verbose,
    )  # fmt: skip
    return KnockOut(list(heads), draws, correct, probs)


@dataclass(frozen=True)
class Backups:
    """The heads that begin to read the audio when others are deaf, in the order they were found."""

    heads: list[Head]  # knocked out from the start
    backups: list[Head]
    probs: list[float]  # the right answer's, without the heads, and after each backup's loss
    whole: float  # the same of the model as it is
    deaf: float  # and without any head
    complete: bool  # whether without them all the answer is no likelier than without any head

    def __repr__(self) -> str:
        names = ", ".join(head_name(*head) for head in self.backups) or "none"
        end = "" if self.complete else ", and others that were not looked for"
        return (
            f"Backups({names}{end}; probability {self.whole:.3f} -> "
            f"{' -> '.join(f'{p:.3f}' for p in self.probs)}, without any head {self.deaf:.3f})"
        )


@torch.no_grad()
def find_backups(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    heads: Sequence[Head],
    *,
    tolerance: float = 0.03,
    most: int = 20,
    queries: str = "text",
    batch_size: int = 16,
    verbose: bool = True,
) -> Backups:
    """Which heads must be knocked out too until no audio reaches the answer.

    Greedy: without the heads, the one whose loss costs most of the right answer's mean probability
    is added, until that is within `tolerance` of what it is without any head. Each step costs a run
    of the items for every head that is left.

    Args:
        items: of which some are answered right by the audio alone, such as those without captions.
        tolerance: in probability.
        most: backups to look for.
        queries: as in `knock_out`.

    Raises:
        ValueError: for heads that do not exist, other queries, or hooks set on the model.
    """
    model.check_no_hooks()
    check_items(items, needs=("answer",))
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
    everything = every_head(model.cfg.n_layers, model.cfg.n_heads)

    def prob(cuts: Sequence[Sequence[Head]]) -> list[float]:
        _, probs = right_answers_without(
            model, items, cuts, queries=queries, batch_size=batch_size, verbose=verbose
        )
        return probs.mean(1).tolist()

    whole, deaf = prob([[], everything])
    backups, path = search_backups(prob, everything, heads, deaf + tolerance, most)
    complete = path[-1] <= deaf + tolerance
    return Backups(list(heads), backups, path, whole, deaf, complete)
