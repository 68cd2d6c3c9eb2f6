"""`lens-audio listen`: ask about a recording, print and draw where the model listens."""

import json
from collections.abc import Callable
from dataclasses import replace
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
from lens_audio.cli.checkpoint import CheckpointFiles, load, question_of
from lens_audio.cli.checks import shown_name
from lens_audio.cli.commands.listen import Listen
from lens_audio.cli.options import split_choices
from lens_audio.cli.recording import Excerpt, read_excerpt
from lens_audio.data.items import AudioQAItem
from lens_audio.files import check_writable, write_text
from lens_audio.plots.choices import shown_mass
from lens_audio.plots.pages.listen import HEAD_COLUMNS, ListenResult, listen_page
from lens_audio.plots.report import own_versions, write_page
from lens_audio.tables import table_text

N_NEXT_TOKENS = 5


def run(request: Listen) -> None:
    """Do all of it: load, answer, look, print, write the page."""
    console, progress = Console(highlight=False), Console(stderr=True)
    out = check_writable(request.out)
    item = item_of(request)
    checkpoint = CheckpointFiles.read(request.model, request.device)
    checkpoint.check_heads(request.top)
    excerpt = read_excerpt(item.audio, checkpoint, request.start, request.end, request.max_seconds)
    prompt = checkpoint.prompt(item.question, (excerpt.samples, excerpt.rate))
    model = load(request.model, request.device, dtype=request.dtype)
    prompt = prompt.to(model.device)
    with progress.status("listening") as status:
        found = listen(model, prompt, excerpt, item, request, status.update)
        status.update("writing the page")
        if request.table is not None:
            write_text(request.table, table_of(found, request.table.suffix))
        write_page(out, listen_page(found))
    show(found, console)
    if request.table is not None:
        console.print(f"\nTable: {escape(str(request.table))}", end="", soft_wrap=True)
    console.print(f"\nPage: {escape(str(out))}", soft_wrap=True)


def item_of(request: Listen) -> AudioQAItem:
    """What is asked about which recording: the bundled item where nothing else was asked for.

    Without choices it has none. The bundled recording keeps its span whatever is asked about it.
    """
    choices = split_choices(request.choices)
    question = question_of(request.question, choices)
    if request.audio is not None:
        audio = Path(request.audio).expanduser()
        return AudioQAItem(audio.name, question, choices or (), None, audio)
    item = replace(testbed.demo_item(), audio=testbed.demo_clip())
    if request.question is None and choices is None:
        return item
    return replace(item, question=question, choices=choices or [], answer=None)


def listen(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    excerpt: Excerpt,
    item: AudioQAItem,
    request: Listen,
    say: Callable[[str], object],
) -> ListenResult:
    """Answer, and measure each head's attention on the audio; `say` is told what goes on."""
    choices = list(item.choices) or None
    say("reading the heads")
    attention = audio_attention(model, prompt)[0].cpu()
    heads = top_heads(audio_mass(attention), request.top)
    say("answering")
    answer = model.generate(prompt, return_type="str", verbose=False).strip()
    say("comparing with silence")
    candidates, with_sound, without_sound, mass = candidate_probs(model, prompt, choices)
    said = [
        *cautions.of_model(request.model, request.audio is not None),
        *cautions.of_answer(answer, choices),
        *cautions.of_mass(mass[0] if mass else None),
    ]
    span = (item.onset, item.offset) if isinstance(item, testbed.Item) else None
    return ListenResult(
        prompt=prompt.to("cpu"),
        audio_name=item.audio.name,
        question=item.question,
        answer=answer,
        candidates=candidates,
        are_choices=choices is not None,
        with_sound=with_sound,
        without_sound=without_sound,
        attention=attention,
        heads=heads,
        model_name=shown_name(request.model),
        command=request.shown(),
        versions=own_versions(),
        key=item.answer,
        span=excerpt.within(span),
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


def table_of(found: ListenResult, suffix: str) -> str:
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


def show(found: ListenResult, console: Console) -> None:
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
