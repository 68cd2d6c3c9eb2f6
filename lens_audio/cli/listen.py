"""`lens-audio listen`: ask about a recording, print and draw where the model listens."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio import AudioPrompt, HookedAudioTransformer, testbed
from lens_audio.analysis import (
    audio_attention,
    audio_mass,
    choice_log_probs,
    choice_probs,
    next_token_probs,
    top_heads,
)
from lens_audio.cli.checkpoint import Checkpoint, load
from lens_audio.files import check_writable
from lens_audio.plots.listen_page import Listened, listen_page
from lens_audio.plots.report import write_page

DEFAULT_QUESTION = "What do you hear?"
EMBEDDED = "the embedded checkpoint"
N_NEXT_TOKENS = 5
DEFAULT_TOP = 8  # as in the command line


@dataclass(frozen=True)
class Request:
    """What the command line asked for; None means the default."""

    audio: str | None
    question: str | None
    choices: list[str] | None
    model: str | None
    device: str | None
    dtype: str | None
    out: Path
    max_seconds: float | None
    top: int


@dataclass(frozen=True)
class Task:
    """What is asked about which recording, and what is known about it."""

    audio: Path
    question: str
    choices: list[str] | None
    key: str | None = None
    span: tuple[float, float] | None = None

    @classmethod
    def of(cls, request: Request) -> "Task":
        """The bundled item where nothing else was asked for; its span stays with its recording."""
        item = testbed.demo_item() if request.audio is None else None
        audio = testbed.demo_clip() if request.audio is None else Path(request.audio).expanduser()
        span = (item.onset, item.offset) if item is not None else None
        if item is not None and request.question is None and request.choices is None:
            return cls(audio, item.question, item.choices, item.answer, span)
        question = request.question or DEFAULT_QUESTION
        if request.choices and not all(c.lower() in question.lower() for c in request.choices):
            # R1-AQA's wording, the same that the embedded checkpoint was trained on.
            options = f"Please choose the answer from the following options: {request.choices}."
            question = f"{question} {options}"
        return cls(audio, question, request.choices, span=span)


def run(request: Request) -> None:
    """Do all of it: load, answer, look, print, write the page."""
    console, progress = Console(highlight=False), Console(stderr=True)
    out = check_writable(request.out)
    task = Task.of(request)
    checkpoint = Checkpoint.read(request.model, request.device)
    checkpoint.check_heads(request.top)
    prompt = checkpoint.prompt(task.question, task.audio, request.max_seconds)
    model = load(request.model, request.device, dtype=request.dtype)
    prompt = prompt.to(model.device)
    with progress.status("listening") as status:
        found = listen(model, prompt, task, request, status.update)
        status.update("writing the page")
        write_page(out, listen_page(found))
    show(found, console)
    console.print(f"\nPage: {escape(str(out))}", soft_wrap=True)


def listen(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    task: Task,
    request: Request,
    say: Callable[[str], object],
) -> Listened:
    """Answer, and measure each head's attention on the audio; `say` is told what goes on."""
    say("reading the heads")
    attention = audio_attention(model, prompt)[0].cpu()
    heads = top_heads(audio_mass(attention), request.top)
    say("answering")
    answer = model.generate(prompt, return_type="str", verbose=False).strip()
    say("comparing with silence")
    candidates, with_sound, without_sound = candidate_probs(model, prompt, task.choices)
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
        command=shown_command(request),
        versions=versions(),
        key=task.key,
        span=task.span,
    )


def candidate_probs(
    model: HookedAudioTransformer, prompt: AudioPrompt, choices: list[str] | None
) -> tuple[list[str], list[float], list[float]]:
    """The choices, or else the likeliest next tokens: probabilities with the sound and without."""
    silenced = prompt.silenced()
    if choices is not None:
        both = [choice_log_probs(model, p, choices) for p in (prompt, silenced)]
        heard, silent = (choice_probs(log_probs)[0] for log_probs in both)
        return choices, heard.tolist(), silent.tolist()
    heard, silent = next_token_probs(model, prompt)[0], next_token_probs(model, silenced)[0]
    best = heard.topk(min(N_NEXT_TOKENS, len(heard))).indices
    words = [repr(model.to_single_str_token(int(token)))[1:-1] for token in best]
    return words, heard[best].tolist(), silent[best].tolist()


def show(found: Listened, console: Console) -> None:
    """Print the question, the answer and two small tables."""
    console.print(
        f"[bold]{escape(found.audio_name)}[/] ({found.seconds:.2f} s), {escape(found.model_name)}"
    )
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
    heads = Table("head", title="strongest heads")
    heads.add_column("attention on the audio", justify="right")
    heads.add_column("looks most at", justify="right")
    for row in found.head_rows:
        heads.add_row(*row)
    console.print()
    console.print(answers)
    console.print(heads)


def shown_name(model: str | None) -> str:
    """A hub id as it is, of a folder only its name."""
    if model is None:
        return EMBEDDED
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def model_option(model: str | None) -> str:
    """The option of a command that names the model; nothing for the embedded checkpoint."""
    return "" if model is None else f" --model {shlex.quote(shown_name(model))}"


def shown_command(request: Request) -> str:
    """The command that makes this page again, with names of files and folders but no paths."""
    words = ["lens-audio", "listen"]
    if request.audio is not None:
        words.append(Path(request.audio).name)
    options = {
        "question": request.question,
        "choices": None if request.choices is None else ",".join(request.choices),
        "model": None if request.model is None else shown_name(request.model),
        "dtype": request.dtype,
        "max-seconds": request.max_seconds,
        "top": None if request.top == DEFAULT_TOP else request.top,
    }
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def versions() -> str:
    """The versions that the result depends on."""
    own = version("lens_audio")
    return f"lens_audio {own}, torch {torch.__version__}, transformers {transformers.__version__}"
