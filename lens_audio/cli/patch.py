"""`lens-audio patch`: ask about two recordings, and patch activations between them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import AudioPrompt, HookedAudioTransformer, testbed
from lens_audio.analysis import choice_log_probs, corruptions, next_token_probs
from lens_audio.analysis.metrics import Metric, logit_diff
from lens_audio.analysis.patching import positions_by, sweep
from lens_audio.cli import cautions
from lens_audio.cli.checkpoint import Checkpoint, first_token, load, question_of
from lens_audio.cli.checks import (
    check_named,
    check_readable,
    is_corruption,
    noise_ratio,
    shown_name,
)
from lens_audio.cli.commands import Patch
from lens_audio.cli.options import split_choices
from lens_audio.cli.recording import Excerpt, read_excerpt
from lens_audio.data import Pair
from lens_audio.data import pair as paired
from lens_audio.files import write_text
from lens_audio.plots.choices import shown_mass
from lens_audio.plots.pages.patch import HEADINGS, STRONGEST, Patched, Run, Sweep, patch_page
from lens_audio.plots.report import own_versions, write_page
from lens_audio.sites import Site
from lens_audio.tables import table_text as csv_text
from lens_audio.testbed.items import with_article

N_NEXT_TOKENS = 4
# The bundled demo's item, and another whose sound is among its choices and comes at another time.
PAIR_SEED, CLEAN_ITEM, CORRUPTED_ITEM = 2026, 18, 14


@dataclass(frozen=True)
class Recording:
    """What a run hears: samples or a file, or a change to the clean recording."""

    name: str
    audio: Any = None  # what `model.prompt` takes
    corrupt: Callable[[AudioPrompt], AudioPrompt] | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Task:
    """One question about two recordings."""

    clean: Recording
    corrupted: Recording
    question: str
    choices: list[str] | None
    fit: str | None  # of recordings of unequal length

    @classmethod
    def of(cls, request: Patch) -> "Task":
        """The bundled pair where no recordings are given.

        Raises:
            OSError, ValueError: for a recording that is none.
        """
        choices = split_choices(request.choices)
        question = question_of(request.question, choices)
        if request.clean is not None:
            corrupted = _corrupted(request.corrupted or "silence")
            return cls(_file(request.clean), corrupted, question, choices, request.fit)
        pair = testbed.make_items(CLEAN_ITEM + 1, PAIR_SEED)
        clean, other = (pair[number] for number in (CLEAN_ITEM, CORRUPTED_ITEM))
        if request.question is None and choices is None:
            question, choices = clean.question, clean.choices
        return cls(_bundled(clean), _bundled(other), question, choices, request.fit or "crop")


def _bundled(item: Any) -> Recording:
    name = f"bundled recording of {with_article(item.category)}"
    return Recording(name, (item.waveform, item.sampling_rate), span=(item.onset, item.offset))


def _file(name: str) -> Recording:
    path = check_readable(name, "audio file")
    return Recording(path.name, path)


def _corrupted(name: str) -> Recording:
    if not is_corruption(name):
        return _file(name)
    if name == "silence":
        return Recording("silence of the same length", corrupt=corruptions.silence)
    if name == "shuffle":
        return Recording("the clean recording, shuffled", corrupt=corruptions.shuffle_time)
    snr = noise_ratio(name)
    return Recording(
        f"the clean recording in noise at {snr:g} dB",
        corrupt=lambda prompt: corruptions.add_noise(prompt, snr),
    )


def run(request: Patch) -> None:
    """Do all of it; nothing is written before everything is done."""
    task, progress = Task.of(request), Console(stderr=True)
    checkpoint = Checkpoint.read(request.model, request.device)
    by = None if request.by is None else [kind.value for kind in dict.fromkeys(request.by)]
    kinds = kinds_of(checkpoint, by, request.site)
    excerpts = read_excerpts(checkpoint, task, request)
    loaded, notes = load_pair(checkpoint, task, excerpts, request.window)
    for kind, site in kinds:
        positions_by(kind, site, loaded, request.window)
    check_comparable(checkpoint, task.choices, request.answer, request.instead)
    model = load(request.model, request.device)
    pair = loaded.to(model.device)
    prompts = (pair.clean, pair.corrupted)
    with progress.status("asking about both recordings"):
        asked = ask(model, prompts, task.choices)
        answers = compared(model, asked, task.choices, request.answer, request.instead)
    metric = logit_diff(*(token for _, token in answers))
    sweeps = [sweep_by(kind, site, model, pair, metric, request) for kind, site in kinds]
    found = _found(request, task, excerpts, prompts, asked, answers, sweeps, notes)
    write_text(request.table, table_text(found, request.table.suffix))
    write_page(request.out, patch_page(found))
    console = Console(highlight=False)
    show(found, console)
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
        direction=request.direction.value,
    )
    found = Sweep(kind, site, where, result, None, request.top)
    if kind == "position" and not Site.of(site).in_encoder:
        return replace(found, labels=[_label(pair.clean, int(p)) for p in found.positions])
    return found


def _label(prompt: AudioPrompt, position: int) -> str:
    """A token's text, or of an audio token its time."""
    if bool(prompt.audio_mask[0, position]):
        return f"{prompt.time_of(0, position)[0]:.2f} s"
    return repr(prompt.str_tokens(0)[position])[1:-1]


def read_excerpts(checkpoint: Checkpoint, task: Task, request: Patch) -> list[Excerpt]:
    """The same part of both recordings; of one that is changed, that part alone."""
    return [
        read_excerpt(
            each.audio, checkpoint.processor, request.start, request.end, request.max_seconds
        )
        for each in (task.clean, task.corrupted)
        if each.corrupt is None
    ]


def load_pair(
    checkpoint: Checkpoint, task: Task, excerpts: Sequence[Excerpt], window: float
) -> tuple[Pair, list[str]]:
    """The clean and the corrupted prompt, and what was done to line them up.

    Raises:
        ValueError: for recordings of unequal length, when nothing says how they line up.
    """
    clean, *others = (
        checkpoint.prompt(task.question, (each.samples, each.rate)) for each in excerpts
    )
    if task.corrupted.corrupt is not None:
        return Pair(clean, task.corrupted.corrupt(clean)), []
    (other,) = others
    n_samples = [len(p.waveforms[0]) for p in (clean, other) if p.waveforms is not None]
    if n_samples[0] == n_samples[1]:
        return Pair(clean, other), []
    seconds = [n / clean.sampling_rate for n in n_samples]
    lengths = f"CLEAN lasts {seconds[0]:.3f} s and CORRUPTED {seconds[1]:.3f} s"
    if task.fit is None:
        raise ValueError(
            f"{lengths}, so positions do not correspond; --fit crop keeps the first "
            f"{min(seconds):.3f} s of both, --fit pad adds silence to the shorter one, --fit group "
            "patches window by window"
        )
    pair = paired(clean, other, task.fit, window=window)
    done = {
        "crop": f"both are cut to {min(seconds):.2f} s.",
        "pad": f"the shorter one is followed by silence, up to {max(seconds):.2f} s.",
        "group": "windows, text and last position are patched group by group; in groups of unequal "
        f"length ({', '.join(pair.averaged) or 'none here'}), every position gets the source's mean.",
    }
    return pair, [f"{lengths}; {done[task.fit]}"]


def check_comparable(
    checkpoint: Checkpoint, choices: list[str] | None, answer: str | None, instead: str | None
) -> None:
    """Refuse answers to compare that their first tokens cannot tell apart, whatever the model says.

    Raises:
        ValueError: for those, or answers that are none of the choices.
    """
    check_named(choices, answer, instead)
    possible = [[named] if named is not None else choices or [] for named in (answer, instead)]
    begins = {first_token(checkpoint.tokenizer, text) for texts in possible for text in texts}
    if all(possible) and len(begins) == 1:
        texts = list(dict.fromkeys(possible[0] + possible[1]))
        raise ValueError(
            f"{', '.join(map(repr, texts))} begin with the same token; name other answers"
        )


@dataclass(frozen=True)
class Asked:
    """The answers to both recordings, and the probabilities of the candidates."""

    candidates: list[str]
    clean: list[float]
    corrupted: list[float]
    answers: tuple[str, str]
    tokens: tuple[int, int]  # the first token of either answer
    masses: tuple[float | None, float | None] = (None, None)  # of all choices together


def ask(
    model: HookedAudioTransformer,
    prompts: tuple[AudioPrompt, AudioPrompt],
    choices: list[str] | None,
) -> Asked:
    """The likeliest choice for either recording, or without choices what the model says."""
    if choices is not None:
        (clean, mass), (corrupted, other_mass) = (
            cautions.probs_and_mass(choice_log_probs(model, prompt, choices)) for prompt in prompts
        )
        best = [choices[max(range(len(p)), key=p.__getitem__)] for p in (clean, corrupted)]
        tokens = [first_token(model.tokenizer, answer) for answer in best]
        pair = ((best[0], best[1]), (tokens[0], tokens[1]), (mass, other_mass))
        return Asked(choices, clean, corrupted, *pair)
    nexts = [next_token_probs(model, prompt)[0] for prompt in prompts]
    tokens = [int(p.argmax()) for p in nexts]
    likeliest = [int(token) for p in nexts for token in p.topk(N_NEXT_TOKENS).indices]
    shown = sorted(set(likeliest), key=lambda t: -float(max(p[t] for p in nexts)))
    words = [_visible(model, token) for token in shown]
    says = [model.generate(p, return_type="str", verbose=False).strip() for p in prompts]
    clean, corrupted = ([float(p[token]) for token in shown] for p in nexts)
    return Asked(words, clean, corrupted, (says[0], says[1]), (tokens[0], tokens[1]))


def compared(
    model: HookedAudioTransformer,
    asked: Asked,
    choices: list[str] | None,
    answer: str | None,
    instead: str | None,
) -> list[tuple[str, int]]:
    """The two answers whose logits are compared, each with its first token.

    Raises:
        ValueError: for answers that their first tokens do not tell apart.
    """
    pair = []
    for named, given, token in zip((answer, instead), asked.answers, asked.tokens, strict=True):
        if named is not None:
            pair.append((named, first_token(model.tokenizer, named)))
        else:
            pair.append((given if choices is not None else _visible(model, token), token))
    (first, token), (second, other) = pair
    if token != other:
        return pair
    if first != second:
        raise ValueError(f"{first!r} and {second!r} begin with the same token; name other answers")
    if answer is not None or instead is not None:
        raise ValueError(
            f"both answers to compare are {first!r}; name two with --answer and --instead"
        )
    raise ValueError(
        f"the answer to both recordings begins with {first!r}, so there is nothing to compare; "
        "name two answers with --answer and --instead"
    )


def table_text(found: Patched, suffix: str) -> str:
    """Every cell of every sweep, as CSV, or as JSON with the answers beside it."""
    frames = [_frame(sweep) for sweep in found.sweeps]
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
        "direction": found.direction,
        "model": found.model_name,
        "versions": found.versions,
        "cells": json.loads(cells.to_json(orient="records", double_precision=15)),
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def show(found: Patched, console: Console) -> None:
    """Print both answers and the strongest cells of each sweep."""
    for caution in found.cautions:
        console.print(f"[bold red]Caution[/]    {escape(caution)}")
    console.print(f"Question   {escape(found.question)}")
    for run_ in (found.clean, found.corrupted):
        facts = run_.heard
        if run_.span is not None:
            facts += f", the sound from {run_.span[0]:.2f} to {run_.span[1]:.2f} s"
        answer = escape(run_.answer) or "(nothing)"
        console.print(f"{run_.role.capitalize():<10} {escape(run_.name)} ({facts})")
        console.print(f"           answer: [bold]{answer}[/]")
        if run_.mass is not None:
            console.print(f"           all choices together: {shown_mass(run_.mass)}")
    for note in found.notes:
        console.print(f"Note       {escape(note)}")
    base, source = found.runs
    console.print(
        f"Metric     logit({escape(found.answer)}) − logit({escape(found.instead)}): "
        f"{base.role} {base.logit_difference:.2f}, {source.role} {source.logit_difference:.2f}"
    )
    for each in found.sweeps:
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


def _found(
    request: Patch,
    task: Task,
    excerpts: list[Excerpt],
    prompts: tuple[AudioPrompt, AudioPrompt],
    asked: Asked,
    answers: Sequence[tuple[str, int]],
    sweeps: list[Sweep],
    notes: list[str],
) -> Patched:
    base, source = (float(v[0, 0]) for v in (sweeps[0].result.base, sweeps[0].result.source))
    values = (source, base) if request.direction == "denoise" else (base, source)
    clean, corrupted = (
        Run(role, recording.name, prompt.to("cpu"), answer, value,
            _within(excerpt.within(recording.span), prompt.clip_seconds(0)), excerpt.said, mass)
        for role, recording, excerpt, prompt, answer, value, mass in zip(
            ("clean", "corrupted"), (task.clean, task.corrupted), (excerpts * 2)[:2], prompts,
            asked.answers, values, asked.masses, strict=True,
        )
    )  # fmt: skip
    return Patched(
        clean=clean,
        corrupted=corrupted,
        question=task.question,
        answer=answers[0][0],
        instead=answers[1][0],
        candidates=asked.candidates,
        quantity="next-token probability" if task.choices is None else "probability among choices",
        clean_probs=asked.clean,
        corrupted_probs=asked.corrupted,
        direction=request.direction,
        sweeps=sweeps,
        notes=notes,
        model_name=shown_name(request.model),
        command=request.shown(),
        versions=own_versions(),
        cautions=[
            *cautions.of_model(request.model, request.clean is not None),
            *cautions.of_mass(asked.masses[0], " in the clean run"),
            *cautions.of_mass(asked.masses[1], " in the corrupted run"),
        ],
    )


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


def _visible(model: HookedAudioTransformer, token: int) -> str:
    return repr(model.to_single_str_token(token))[1:-1]


def _within(span: tuple[float, float] | None, seconds: float) -> tuple[float, float] | None:
    """A span as far as the recording goes."""
    return None if span is None or span[0] >= seconds else (span[0], min(span[1], seconds))
