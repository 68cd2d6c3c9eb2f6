"""The search for readers and backups, on answers that are worked out by hand."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lens_audio.testbed.find_truth import search

Head = tuple[int, int]
HEADS = [(layer, head) for layer in range(8) for head in range(8)]
READERS, BACKUP = [(1, 0), (2, 3), (5, 5)], (4, 4)


def without(prob: Callable[[set[Head]], float]) -> Callable[[Sequence[Sequence[Head]]], Tensor]:
    """The right answer's probability where `prob` gives it for the heads that still hear."""
    return lambda cuts: torch.tensor([prob(set(HEADS) - set(cut)) for cut in cuts])


def test_finds_the_readers_and_the_head_that_stands_in_for_them() -> None:
    def prob(hearing: set[Head]) -> float:
        n = sum(head in hearing for head in READERS)
        return 0.25 + 0.2 * n + (0.1 if n == 0 and BACKUP in hearing else 0)

    found = search(without(prob), HEADS)
    assert found.readers == READERS
    assert found.backups == [BACKUP]
    assert found.whole == pytest.approx(0.85)
    assert found.deaf == pytest.approx(0.25)


def test_of_two_heads_that_do_the_same_one_is_the_reader_and_one_the_backup() -> None:
    twins = {(1, 1), (6, 2)}
    found = search(without(lambda hearing: 0.9 if hearing & twins else 0.25), HEADS)
    assert len(found.readers) == len(found.backups) == 1
    assert {*found.readers, *found.backups} == twins


def test_where_the_audio_does_not_matter_nothing_is_found() -> None:
    with pytest.raises(ValueError, match="the audio does not matter"):
        search(without(lambda hearing: 0.25), HEADS)
