"""What a score card says in sentences, each computed from its table."""

from collections.abc import Iterable

import pandas as pd

from lens_audio.analysis.attention import FLOOR
from lens_audio.evals.localisation.methods import CORRELATION, FLOOR_ALONE, FLOORED
from lens_audio.plots.theme import number

FINDS = 0.9  # AUROC, where the interval of a method must begin that is said to find the readers
CHANCE = 0.5


def findings(table: pd.DataFrame) -> list[str]:
    """Which methods find the readers on every data set, and which ones fool themselves on which.

    Of a method without an interval the value itself decides; one without a value finds nothing.
    """
    table = table.assign(least=table["auroc_low"].fillna(table["auroc"]).fillna(0.0))
    said = [_everywhere(table), *_of_edges(table)]
    for (checkpoint, condition), rows in table.groupby(["checkpoint", "condition"], sort=False):
        where = f"On {checkpoint} ({condition})"
        said += [*_at_chance(rows, where), *_decoyed(rows, where), *_floor(rows, where)]
    return said


def _everywhere(table: pd.DataFrame) -> str:
    found = _on_all(table, (table["least"] >= FINDS) & ~_is_fooled(table))
    which = f"with an AUROC whose interval begins at {FINDS:g} or above"
    if not found:
        return f"No method finds the readers on every data set, {which}."
    return f"The readers are found on every data set by {_listed(found)}, {which}."


def _of_edges(table: pd.DataFrame) -> Iterable[str]:
    rows = table[table["edge_auroc"].notna()]
    found = _on_all(rows, rows["edge_auroc_low"].fillna(rows["edge_auroc"]) >= FINDS)
    if found:
        yield (
            "Edge by edge, those from the audio into the readers' keys and values are found on every "
            f"data set by {_listed(found)}, by the same measure."
        )
    elif len(rows):
        yield (
            "Edge by edge, no method finds those from the audio into the readers' keys and values on "
            "every data set, by the same measure."
        )


def _on_all(rows: pd.DataFrame, finds: pd.Series) -> list[str]:
    """The methods that find on every data set."""
    everywhere = finds.groupby(rows["method"], sort=False).all()
    return list(everywhere.index[everywhere])


def _at_chance(rows: pd.DataFrame, where: str) -> Iterable[str]:
    undefined = rows["auroc"].isna()
    if undefined.any():
        yield f"{where} no head gets a score by {_listed(list(rows['method'][undefined]))}."
    by_chance = rows[(rows["least"] <= CHANCE) & ~undefined]
    if len(by_chance):
        named = [
            f"{row['method']} ({number(row['auroc'], row['auroc_low'], row['auroc_high'])})"
            for row in by_chance.to_dict("records")
        ]
        yield f"{where} no better than chance, by AUROC: {_listed(named)}."


def _decoyed(rows: pd.DataFrame, where: str) -> Iterable[str]:
    fooled = rows[_is_fooled(rows)]
    if len(fooled):
        named = [
            f"{row['method']} ({row['decoys']:.0%} decoys, {row['precision']:.0%} readers)"
            for row in fooled.to_dict("records")
        ]
        k = rows["k"].iloc[0]
        yield f"{where} fooled by decoys, among the first {k} heads: {_listed(named)}."


def _is_fooled(rows: pd.DataFrame) -> pd.Series:
    """Whether more decoys than readers are among the first heads."""
    return rows["decoys"] > rows["precision"]


def _floor(rows: pd.DataFrame, where: str) -> Iterable[str]:
    by_method = rows.set_index("method")["auroc"]
    if not {CORRELATION, FLOORED, FLOOR_ALONE} <= set(by_method.index):
        return
    plain, floored, alone = (by_method[name] for name in (CORRELATION, FLOORED, FLOOR_ALONE))
    if floored > plain and alone >= (plain + floored) / 2:
        yield (
            f"{where} the floor does the work: correlation has an AUROC of {plain:.2f}, with a "
            f"floor of {FLOOR:g} of mean mass {floored:.2f}, and the floor alone {alone:.2f}."
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
