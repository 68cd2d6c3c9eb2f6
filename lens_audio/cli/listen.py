"""`lens-audio listen`: ask about a recording, print and draw where the model listens."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import AudioPrompt, HookedAudioTransformer, testbed
from lens_audio.analysis import (
    audio_attention,
    audio_mass,
    choice_log_probs,
    next_token_probs,
    top_heads,
)
from lens_audio.cli import cautions
from lens_audio.cli.checkpoint import Checkpoint, load, question_of
from lens_audio.cli.checks import shown_name
from lens_audio.cli.commands import Listen
from lens_audio.cli.options import split_choices
from lens_audio.cli.recording import Excerpt, read_excerpt
from lens_audio.files import check_writable, write_text
from lens_audio.plots.choices import shown_mass
from lens_audio.plots.pages.listen import HEAD_COLUMNS, Listened, listen_page
from lens_audio.plots.report import own_versions, write_page
from lens_audio.tables import table_text

N_NEXT_TOKENS = 5


@dataclass(frozen=True)
class Task:
    """What is asked about which recording, and what is known about it."""

    audio: Path
    question: str
    choices: list[str] | None
    key: str | None = None
    span: tuple[float, float] | None = None

    @classmethod
    def of(cls, request: Listen) -> "Task":
        """The bundled item where nothing else was asked for; its span stays with its recording."""
        item = testbed.demo_item() if request.audio is None else None
        audio = testbed.demo_clip() if request.audio is None else Path(request.audio).expanduser()
        span = (item.onset, item.offset) if item is not None else None
        if item is not None and request.question is None and request.choices is None:
            return cls(audio, item.question, item.choices, item.answer, span)
        choices = split_choices(request.choices)
        return cls(audio, question_of(request.question, choices), choices, span=span)


def run(request: Listen) -> None:
    """Do all of it: load, answer, look, print, write the page."""
    console, progress = Console(highlight=False), Console(stderr=True)
    out = check_writable(request.out)
    task = Task.of(request)
    checkpoint = Checkpoint.read(request.model, request.device)
    checkpoint.check_heads(request.top)
    excerpt = read_excerpt(task.audio, checkpoint, request.start, request.end, request.max_seconds)
    prompt = checkpoint.prompt(task.question, (excerpt.samples, excerpt.rate))
    model = load(request.model, request.device, dtype=request.dtype)
    prompt = prompt.to(model.device)
    with progress.status("listening") as status:
        found = listen(model, prompt, excerpt, task, request, status.update)
        status.update("writing the page")
        if request.table is not None:
            write_text(request.table, table_of(found, request.table.suffix))
        write_page(out, listen_page(found))
    show(found, console)
    if request.table is not None:
        console.print(f"\nTable: {escape(str(request.table))}", end="", soft_wrap=True)
    console.print(f"\nPage: {escape(str(out))}", soft_wrap=True)


def listen(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    excerpt: Excerpt,
    task: Task,
    request: Listen,
    say: Callable[[str], object],
) -> Listened:
    """Answer, and measure each head's attention on the audio; `say` is told what goes on."""
    say("reading the heads")
    attention = audio_attention(model, prompt)[0].cpu()
    heads = top_heads(audio_mass(attention), request.top)
    say("answering")
    answer = model.generate(prompt, return_type="str", verbose=False).strip()
    say("comparing with silence")
    candidates, with_sound, without_sound, mass = candidate_probs(model, prompt, task.choices)
    said = [
        *cautions.of_model(request.model, request.audio is not None),
        *cautions.of_answer(answer, task.choices),
        *cautions.of_mass(mass[0] if mass else None),
    ]
    return Listened(
        prompt=prompt.to("cpu"),
        audio_name=task.audio.name,
        question=task.question,
        answer=answer,
        candidates=candidates,
        are_choices=task.choices is not None,
        with_sound=with_sound,
        without_sound=without_sound,
        attention=attention,
        heads=heads,
        model_name=shown_name(request.model),
        command=request.shown(),
        versions=own_versions(),
        key=task.key,
        span=excerpt.within(task.span),
        heard=excerpt.said,
        start=excerpt.start,
        mass=mass,
        cautions=said,
    )


def candidate_probs(
    model: HookedAudioTransformer, prompt: AudioPrompt, choices: list[str] | None
) -> tuple[list[str], list[float], list[float], tuple[float, float] | None]:
    """The choices, or else the likeliest next tokens: probabilities with the sound and without.

    Last, of choices, what they have together in either run.
    """
    silenced = prompt.silenced()
    if choices is not None:
        both = [choice_log_probs(model, p, choices) for p in (prompt, silenced)]
        (heard_, mass), (silent_, silent_mass) = map(cautions.probs_and_mass, both)
        return choices, heard_, silent_, (mass, silent_mass)
    heard, silent = next_token_probs(model, prompt)[0], next_token_probs(model, silenced)[0]
    best = heard.topk(min(N_NEXT_TOKENS, len(heard))).indices
    words = [repr(model.to_single_str_token(int(token)))[1:-1] for token in best]
    return words, heard[best].tolist(), silent[best].tolist(), None


def table_of(found: Listened, suffix: str) -> str:
    """The candidates as CSV, or as JSON with the answer, the mass and the cautions beside them."""
    rows = [
        {"candidate": name, "with_sound": heard, "silenced": silent}
        for name, heard, silent in zip(
            found.candidates, found.with_sound, found.without_sound, strict=True
        )
    ]
    masses = dict(zip(("with_sound", "silenced"), found.mass or (None, None), strict=True))
    if suffix == ".csv":
        frame = pd.DataFrame(rows)
        for run_, mass in masses.items():
            frame[f"mass_{run_}"] = mass
        return table_text(frame.assign(cautions=" ".join(found.cautions)))
    facts = {
        "recording": found.audio_name,
        "heard": found.heard,
        "question": found.question,
        "answer": found.answer,
        "cautions": found.cautions,
        "quantity": found.quantity,
        "candidates": rows,
        "mass_on_the_choices": masses if found.mass else None,
        "heads": [dict(zip(HEAD_COLUMNS, row, strict=True)) for row in found.head_rows],
        "model": found.model_name,
        "versions": found.versions,
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def show(found: Listened, console: Console) -> None:
    """Print the question, the answer and two small tables."""
    console.print(
        f"[bold]{escape(found.audio_name)}[/] ({found.heard}), {escape(found.model_name)}"
    )
    for caution in found.cautions:
        console.print(f"[bold red]Caution[/]   {escape(caution)}")
    console.print(f"Question  {escape(found.question)}")
    console.print(f"Answer    [bold]{escape(found.answer) or '(nothing)'}[/]")
    if found.key is not None:
        says = "[green]agrees[/]" if found.is_right else "[red]does not agree[/]"
        console.print(f"Key       {escape(found.key)}: the answer {says}")
    answers = Table("choice" if found.are_choices else "next token", title=found.quantity)
    answers.add_column("with the sound", justify="right")
    answers.add_column("silenced", justify="right")
    for name, heard, silent in zip(
        found.candidates, found.with_sound, found.without_sound, strict=True
    ):
        answers.add_row(escape(name), f"{heard:.1%}", f"{silent:.1%}")
    if found.mass is not None:
        answers.add_section()
        answers.add_row("(all choices together)", *map(shown_mass, found.mass))
    heads = Table(title="strongest heads")
    for number, name in enumerate(HEAD_COLUMNS):
        heads.add_column(name, justify="right" if number else "left")
    for row in found.head_rows:
        heads.add_row(*row)
    console.print()
    console.print(answers)
    console.print(heads)
