"""`lens-audio patch`: ask about two recordings, and patch activations between them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.analysis.metrics import Metric, logit_diff
from lens_audio.analysis.patching import positions_by, sweep
from lens_audio.cli.both_answers import (
    ask,
    check_comparable,
    compared,
    show_answers,
    two_answers,
)
from lens_audio.cli.checkpoint import CheckpointFiles, load
from lens_audio.cli.commands.patch import Patch
from lens_audio.cli.two_recordings import TwoRecordings, load_pair, read_excerpts
from lens_audio.data import Pair
from lens_audio.files import write_text
from lens_audio.plots.pages.answers import TwoAnswers
from lens_audio.plots.pages.patch import HEADINGS, STRONGEST, Sweep, base_and_source, patch_page
from lens_audio.plots.report import write_page
from lens_audio.sites import Site
from lens_audio.tables import table_text as csv_text


def run(request: Patch) -> None:
    """Do all of it; nothing is written before everything is done."""
    asked, progress = TwoRecordings.of(request), Console(stderr=True)
    checkpoint = CheckpointFiles.read(request.model, request.device)
    by = None if request.by is None else list(dict.fromkeys(request.by))
    kinds = kinds_of(checkpoint, by, request.site)
    excerpts = read_excerpts(checkpoint, asked, request)
    loaded, notes = load_pair(checkpoint, asked, excerpts, request.window)
    for kind, site in kinds:
        positions_by(kind, site, loaded, request.window)
    check_comparable(checkpoint, asked)
    model = load(request.model, request.device)
    pair = loaded.to(model.device)
    with progress.status("asking about both recordings"):
        candidates, runs = ask(model, asked, excerpts, loaded)
        answers = compared(model, asked, runs)
    metric = logit_diff(*(token for _, token in answers))
    sweeps = [sweep_by(kind, site, model, pair, metric, request) for kind, site in kinds]
    measured = logit_differences(sweeps[0])
    found = two_answers(request, asked, candidates, runs, measured, answers, notes)
    write_text(request.table, table_text(found, sweeps, request.table.suffix))
    write_page(request.out, patch_page(found, sweeps))
    console = Console(highlight=False)
    show(found, sweeps, console)
    files = f"\nTable: {escape(str(request.table))}\nPage: {escape(str(request.out))}"
    console.print(files, soft_wrap=True)


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
        raise ValueError(f"{site!r} has no heads; sites with heads are z, q, k, v and pattern")
    if "group" in by and where is not None and where.is_audio:
        raise ValueError(
            f"{site!r} has no groups: only the decoder's sites have audio, text and last"
        )
    return [(kind, site or ("z" if kind == "head" else "resid_pre")) for kind in by]


def sweep_by(
    kind: str, site: str, model: HookedAudioTransformer, pair: Pair, metric: Metric, request: Patch
) -> Sweep:
    """One sweep over all layers, with a progress bar where it takes over a second.

    Raises:
        ValueError: for windows or groups that this site does not have.
    """
    positions, where = positions_by(kind, site, pair, request.window)
    result = sweep(
        model,
        pair,
        site=site,
        metric=metric,
        positions=positions,
        heads="each" if kind == "head" else None,
        direction=request.direction,
    )
    found = Sweep(kind, site, where, result, None, request.top)
    if kind == "position" and not Site.of(site).in_encoder:
        return replace(found, labels=_labels(pair.clean, map(int, found.positions)))
    return found


def logit_differences(swept: Sweep) -> list[float]:
    """Those of the clean run and of the corrupted one."""
    values = [float(v[0, 0]) for v in (swept.result.source, swept.result.base)]
    if swept.direction == "noise":
        values.reverse()
    return values


def _labels(prompt: AudioPrompt, positions: Iterable[int]) -> list[str]:
    """Of each position its token's text, or of an audio token its time."""
    words, is_audio = prompt.str_tokens(0), prompt.audio_mask[0].tolist()
    return [
        f"{prompt.time_of(0, p)[0]:.2f} s" if is_audio[p] else repr(words[p])[1:-1]
        for p in positions
    ]


def table_text(found: TwoAnswers, sweeps: Sequence[Sweep], suffix: str) -> str:
    """Every cell of every sweep, as CSV, or as JSON with the answers beside it."""
    frames = [_frame(sweep) for sweep in sweeps]
    cells = pd.concat(frames, ignore_index=True)
    if suffix == ".csv":
        # Positions are numbers here; time windows and groups are texts.
        place = [int(p) if isinstance(p, str) and p.isdigit() else p for p in cells["position"]]
        return csv_text(cells.assign(position=place))
    facts = {
        "question": found.question,
        "cautions": found.cautions,
        **{
            run_.role: {
                "recording": run_.name,
                "heard": run_.heard,
                "answer": run_.answer,
                "mass_on_the_choices": run_.mass,
            }
            for run_ in (found.clean, found.corrupted)
        },
        "metric": f"logit({found.answer}) - logit({found.instead})",
        "direction": sweeps[0].direction,
        "model": found.model_name,
        "versions": found.versions,
        "cells": json.loads(cells.to_json(orient="records", double_precision=15)),
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def show(found: TwoAnswers, sweeps: Sequence[Sweep], console: Console) -> None:
    """Print both answers and the strongest cells of each sweep."""
    show_answers(found, console)
    base, source = base_and_source(found, sweeps[0])
    console.print(
        f"Metric     logit({escape(found.answer)}) − logit({escape(found.instead)}): "
        f"{base.role} {base.logit_difference:.2f}, {source.role} {source.logit_difference:.2f}"
    )
    for each in sweeps:
        console.print(f"\n[bold]{HEADINGS[each.by]}[/]")
        console.print(
            f"{escape(each.site)} of {escape(each.where)}, {source.role} into {base.role}"
        )
        table = Table()
        for number, name in enumerate(STRONGEST):
            table.add_column(name, justify="right" if number else "left")
        for row in each.strongest:
            table.add_row(*map(escape, row))
        console.print(table)


def _frame(sweep: Sweep) -> pd.DataFrame:
    """One row a cell: by, site, layer, position, head, value, base, source, change, recovery."""
    frame = sweep.result.to_dataframe().rename(columns={"group": "position"})
    frame["base"], frame["source"] = float(sweep.result.base[0]), float(sweep.result.source[0])
    frame["change"] = frame["value"] - frame["base"]
    frame["by"], frame["site"] = sweep.by, sweep.site
    for name in {"position", "head"} - set(frame):
        frame[name] = pd.NA
    if sweep.labels is not None:
        names = dict(zip(sweep.positions, sweep.labels, strict=True))
        frame["token"] = frame["position"].map(names)
    frame["head"] = frame["head"].astype("Int64")
    columns = ["by", "site", "layer", "position", "token", "head", "value", "base", "source"]
    return frame[[c for c in (*columns, "change", "recovery") if c in frame]]
