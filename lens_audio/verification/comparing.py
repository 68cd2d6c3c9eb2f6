"""The rule: how far from transformers counts as agreement.

transformers does not agree with itself to the last bit: the same weights through its two ways to
compute attention, "eager" and "sdpa", give two results. How far those are apart is measured on
every prompt, and is the measure of what rounding does to this model in this dtype.

A difference of two activations is taken as a share: at every position, the largest |a - b| over
the largest |b|; of all positions, the worst. Ours agrees if its share from transformers' eager
result is at most `FACTOR` times the share between eager and sdpa, plus `FLOOR` machine epsilons of
the dtype. NaN agrees with nothing.

Greedy tokens agree if the logits that chose them do by the same rule, up to the first token that
differs. There the two candidates are then within rounding of each other, a tie; what follows it
has another past and is not compared.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.verification.reading import LOGITS, Generated, Reading

FACTOR = 4.0
FLOOR = 4.0  # machine epsilons
RULE = (
    f"share of ours from transformers' eager result <= {FACTOR:g} x the share between transformers' "
    f"eager and sdpa results + {FLOOR:g} x the dtype's epsilon, where a share is the largest "
    "|difference| over the largest |value| of a position, at the worst position; so for the logits of "
    "every greedy token, too, as far as the tokens are the same"
)
N_AT_ONCE = 64  # positions compared at once: the logits of a long prompt fill gigabytes


@dataclass(frozen=True)
class Apart:
    """How far two activations are apart."""

    largest: float  # the largest |a - b|
    share: float  # the same over the largest |b| of its position, at the worst position


@dataclass(frozen=True)
class Difference:
    """One place of one prompt."""

    place: str
    ours: Apart  # from transformers' eager result
    own: Apart  # transformers' eager from its sdpa result
    allowed: float  # share

    @property
    def agrees(self) -> bool:
        """False for NaN, too."""
        return self.ours.share <= self.allowed


@dataclass(frozen=True)
class RowTokens:
    """Greedy tokens of one row of a prompt."""

    ours: list[int]
    transformers: list[int] | None = None  # None without a reference
    logits: Apart | None = None  # up to the first token that differs
    allowed: float = 0.0  # share
    parts_at: int | None = None  # the first token that differs
    gap: float | None = None  # there, of transformers' logits of both, as a share of the largest

    @property
    def agrees(self) -> bool:
        """Whether the logits do, so that tokens differ at a tie alone; False for NaN."""
        return self.logits is None or self.logits.share <= self.allowed


def apart(place: str, a: Float[Tensor, "real width"], b: Float[Tensor, "_ _"]) -> Apart:
    """How far a is from b.

    Raises:
        ValueError: if they are of different shapes, so no result of the same model.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"{place}: shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared"
        )
    largest, shares = [], []
    for x, y in zip(a.split(N_AT_ONCE), b.split(N_AT_ONCE), strict=True):
        difference = (x.float() - y.float()).abs().amax(-1)
        largest.append(difference)
        shares.append(difference / y.float().abs().amax(-1).clamp(min=1e-30))
    return Apart(float(torch.cat(largest).max()), float(torch.cat(shares).max()))


def allowed_share(own: Apart, dtype: torch.dtype) -> float:
    """The rule's right side."""
    return FACTOR * own.share + FLOOR * torch.finfo(dtype).eps


def compare(ours: Reading, eager: Reading, own: dict[str, Apart]) -> list[Difference]:
    """Every place, in the order of the flow."""
    return [
        Difference(
            place,
            apart(place, found, eager[place]),
            own[place],
            allowed_share(own[place], found.dtype),
        )
        for place, found in ours.items()
    ]


def compare_tokens(ours: Generated, theirs: Generated, allowed: float) -> list[RowTokens]:
    """Every row; `allowed` is the share that logits may be off by."""
    rows = []
    for i, (mine, other) in enumerate(zip(ours.tokens, theirs.tokens, strict=True)):
        differ = (mine != other).nonzero().flatten()
        parts_at = int(differ[0]) if len(differ) else None
        read = slice(None if parts_at is None else parts_at + 1)
        logits = theirs.logits[i, read].float()
        gap = None
        if parts_at is not None:
            two = logits[-1, other[parts_at]] - logits[-1, mine[parts_at]]
            gap = float(two / logits[-1].abs().max())
        found = apart("greedy tokens", ours.logits[i, read], logits)
        rows.append(RowTokens(mine.tolist(), other.tolist(), found, allowed, parts_at, gap))
    return rows


def logits_share(differences: list[Difference]) -> float:
    """What is allowed for the logits."""
    return next(d.allowed for d in differences if d.place == LOGITS)
