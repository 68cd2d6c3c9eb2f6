"""Accuracies with their intervals, by whatever an item is; and two runs compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.stats import mcnemar, paired_difference, wilson

ALL = "all"


def accuracies(
    correct: Mapping[str, Bool[Tensor, " item"]],
    facts: Sequence[Mapping[str, str]],
    groups: Sequence[str],
) -> pd.DataFrame:
    """Accuracy of each run over all items, then by each fact, with 95 % Wilson intervals.

    Returns:
        Columns run, group, value, n, correct, accuracy, low, high, over (what the interval is over).
    """
    members = {(ALL, ALL): torch.ones(len(facts), dtype=torch.bool)}
    for group in groups:
        for value in sorted({fact.get(group, "") for fact in facts}):
            here = [fact.get(group, "") == value for fact in facts]
            members[group, value] = torch.tensor(here)
    rows = []
    for (group, value), chosen in members.items():
        for run, right in correct.items():
            share = wilson(right[chosen])
            rows.append(
                (
                    run,
                    group,
                    value,
                    int(chosen.sum()),
                    int(right[chosen].sum()),
                    *share[:3],
                    share.over,
                )
            )
    columns = ["run", "group", "value", "n", "correct", "accuracy", "low", "high", "over"]
    return pd.DataFrame(rows, columns=columns)


def comparisons(correct: Mapping[str, Bool[Tensor, " item"]], seed: int = 0) -> pd.DataFrame:
    """Each run against the first: change in accuracy, paired, and McNemar's test.

    Returns:
        Columns run, change, low, high (95 % bootstrap), gained, lost, p_value (McNemar), over (what
        the interval is over: items).
    """
    (_, base), *others = correct.items()
    rows: list[Any] = []
    for run, right in others:
        change = paired_difference(right, base, seed)
        rows.append((run, *change[:3], *mcnemar(base, right), change.over))
    columns = ["run", "change", "low", "high", "gained", "lost", "p_value", "over"]
    return pd.DataFrame(rows, columns=columns)
