"""The sweeps of `lens-audio patch`: what is patched by window, head, position or group."""

from collections.abc import Sequence
from typing import Any

import torch

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.analysis.metrics import Metric
from lens_audio.analysis.patching import positions_by, sweep
from lens_audio.analysis.result import PatchingResult
from lens_audio.data import Pair
from lens_audio.plots.patch_page import Sweep
from lens_audio.plots.theme import head_name
from lens_audio.sites import Site


def kinds_of(model: Any, by: Sequence[str] | None, site: str | None) -> list[tuple[str, str]]:
    """The sweeps to make, each with its site.

    Args:
        model: anything with the `cfg` of the model.

    Raises:
        ValueError: for no such site, one without heads by head, or of the audio alone by group.
    """
    where = None if site is None else Site.of(site)
    has_heads = where is not None and where.in_block().head_axis is not None
    if by is None:
        return [("window", site or "resid_pre"), ("head", site if site and has_heads else "z")]
    if "head" in by and site is not None and not has_heads:
        raise ValueError(f"{site!r} has no heads; by head there are z, q, k, v and pattern")
    if "group" in by and where is not None and where.is_audio:
        raise ValueError(f"{site!r} has no groups: audio, text and last are of the decoder's sites")
    return [(kind, site or ("z" if kind == "head" else "resid_pre")) for kind in by]


def sweep_by(
    kind: str,
    site: str,
    model: HookedAudioTransformer,
    pair: Pair,
    metric: Metric,
    window: float,
    direction: str,
    top: int,
) -> Sweep:
    """One sweep over all layers, with a progress bar where it takes over a second.

    Raises:
        ValueError: for windows or groups that this site does not have.
    """
    positions, where = positions_by(kind, site, pair, window)
    result = sweep(
        model,
        pair,
        site=site,
        metric=metric,
        positions=positions,
        heads="each" if kind == "head" else None,
        direction=direction,
    )
    labels = None
    if kind == "position" and not Site.of(site).in_encoder:
        labels = [_label(pair.clean, int(p)) for p in position_names(result)]
    return Sweep(kind, site, where, result, labels, strongest(result, labels, top))


def position_names(result: PatchingResult) -> list[str]:
    """The entries of the axis of positions or groups; none without one."""
    return result.axes.get("position", result.axes.get("group", []))


def strongest(
    result: PatchingResult, labels: Sequence[str] | None, top: int
) -> list[tuple[str, ...]]:
    """The cells that change the metric most: name, value, change from the base run, recovery."""
    values, recovery = result.mean(), result.recovery()
    change = values - result.base[0].mean()
    sizes = change.abs().nan_to_num(-1.0).flatten()
    axes = list(result.axes.items())[1:-1]
    names = dict(zip(position_names(result), labels or [], strict=False))
    rows: list[tuple[str, ...]] = []
    for flat in sizes.argsort(descending=True, stable=True)[:top]:
        place = [int(i) for i in torch.unravel_index(flat, values.shape)]
        cell = {name: entries[i] for (name, entries), i in zip(axes, place, strict=True)}
        if not Site.of(result.about["site"]).is_in_blocks:  # before any layer
            del cell["layer"]
        numbers = [float(x[tuple(place)]) for x in (values, change, recovery)]
        rows.append(
            (
                _cell_name(cell, names),
                f"{numbers[0]:.2f}",
                f"{numbers[1]:+.2f}",
                "undefined" if numbers[2] != numbers[2] else f"{numbers[2]:.1%}",
            )
        )
    return rows


def _cell_name(cell: dict[str, str], names: dict[str, str]) -> str:
    if "head" in cell:
        return head_name(int(cell["layer"]), int(cell["head"]))
    position = cell.get("position", cell.get("group", ""))
    if position in names:
        position = f"position {position} ({names[position]})"
    return f"layer {cell['layer']}, {position}" if "layer" in cell else position


def _label(prompt: AudioPrompt, position: int) -> str:
    """A token's text, or of an audio token its time."""
    if bool(prompt.audio_mask[0, position]):
        return f"{prompt.time_of(0, position)[0]:.2f} s"
    return repr(prompt.str_tokens(0)[position])[1:-1]
