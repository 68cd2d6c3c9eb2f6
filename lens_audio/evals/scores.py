"""Accuracies with their intervals, by whatever an item is; and two runs compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from lens_audio.stats import holm, mcnemar, paired_difference, wilson

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


def comparisons(
    correct: Mapping[str, Bool[Tensor, " item"]], seed: int = 0, corrected: bool = False
) -> pd.DataFrame:
    """Each run against the first: change in accuracy, paired, and McNemar's test.

    Args:
        corrected: also give p corrected by Holm for the number of runs compared.

    Returns:
        Columns run, change, low, high (95 % bootstrap), gained, lost, p_value (McNemar), over (what
        the interval is over: items), and p_corrected.
    """
    (_, base), *others = correct.items()
    rows: list[Any] = []
    for run, right in others:
        change = paired_difference(right, base, seed)
        rows.append((run, *change[:3], *mcnemar(base, right), change.over))
    columns = ["run", "change", "low", "high", "gained", "lost", "p_value", "over"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_corrected=holm(list(table["p_value"]))) if corrected else table


def against_controls(
    correct: Mapping[str, Bool[Tensor, " item"]],
    controls: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> pd.DataFrame:
    """Each run that has random controls against their mean, paired.

    Returns:
        Columns run, draws, change, low, high (95 % bootstrap), over (items, and draws if several).
    """
    rows = []
    for run, names in controls.items():
        drawn = torch.stack([correct[name] for name in names])
        change = paired_difference(correct[run], drawn, seed)
        rows.append((run, len(names), *change[:3], change.over))
    return pd.DataFrame(rows, columns=["run", "draws", "change", "low", "high", "over"])
