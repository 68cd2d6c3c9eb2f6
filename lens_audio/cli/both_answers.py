"""What a model answers to two recordings, which two answers are compared, and how that is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.analysis import choice_log_probs, next_token_probs
from lens_audio.cli import cautions
from lens_audio.cli.checkpoint import CheckpointFiles, first_token
from lens_audio.cli.checks import check_named, shown_name
from lens_audio.cli.commands.about_two import AboutTwo
from lens_audio.cli.recording import Excerpt
from lens_audio.cli.two_recordings import TwoRecordings
from lens_audio.data import Pair
from lens_audio.plots.choices import shown_mass
from lens_audio.plots.pages.answers import AnsweredRecording, TwoAnswers
from lens_audio.plots.report import own_versions

N_NEXT_TOKENS = 4


def check_comparable(
    checkpoint: CheckpointFiles, choices: list[str] | None, answer: str | None, instead: str | None
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
class BothAnswers:
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
) -> BothAnswers:
    """The likeliest choice for either recording, or without choices what the model says."""
    if choices is not None:
        (clean, mass), (corrupted, other_mass) = (
            cautions.probs_and_mass(choice_log_probs(model, prompt, choices)) for prompt in prompts
        )
        best = [choices[max(range(len(p)), key=p.__getitem__)] for p in (clean, corrupted)]
        tokens = [first_token(model.tokenizer, answer) for answer in best]
        pair = ((best[0], best[1]), (tokens[0], tokens[1]), (mass, other_mass))
        return BothAnswers(choices, clean, corrupted, *pair)
    nexts = [next_token_probs(model, prompt)[0] for prompt in prompts]
    tokens = [int(p.argmax()) for p in nexts]
    likeliest = [int(token) for p in nexts for token in p.topk(N_NEXT_TOKENS).indices]
    shown = sorted(set(likeliest), key=lambda t: -float(max(p[t] for p in nexts)))
    words = [_visible(model, token) for token in shown]
    says = [model.generate(p, return_type="str", verbose=False).strip() for p in prompts]
    clean, corrupted = ([float(p[token]) for token in shown] for p in nexts)
    return BothAnswers(words, clean, corrupted, (says[0], says[1]), (tokens[0], tokens[1]))


def compared(
    model: HookedAudioTransformer,
    both: BothAnswers,
    choices: list[str] | None,
    answer: str | None,
    instead: str | None,
) -> list[tuple[str, int]]:
    """The two answers whose logits are compared, each with its first token.

    Raises:
        ValueError: for answers that their first tokens do not tell apart.
    """
    pair = []
    for named, given, token in zip((answer, instead), both.answers, both.tokens, strict=True):
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


def _visible(model: HookedAudioTransformer, token: int) -> str:
    return repr(model.to_single_str_token(token))[1:-1]


def answered(
    asked: TwoRecordings,
    excerpts: list[Excerpt],
    pair: Pair,
    both: BothAnswers,
    values: Sequence[float],
) -> list[AnsweredRecording]:
    """The clean recording and the corrupted one, each with the answer to it.

    Args:
        values: the logit difference in either run.
    """
    return [
        AnsweredRecording(
            role, recording.name, prompt, answer, value,
            _within(excerpt.within(recording.span), prompt.clip_seconds(0)), excerpt.said, mass,
        )
        for role, recording, excerpt, prompt, answer, value, mass in zip(
            ("clean", "corrupted"), (asked.clean, asked.corrupted), (excerpts * 2)[:2],
            (pair.clean, pair.corrupted), both.answers, values, both.masses, strict=True,
        )
    ]  # fmt: skip


def _within(span: tuple[float, float] | None, seconds: float) -> tuple[float, float] | None:
    """A span as far as the recording goes."""
    return None if span is None or span[0] >= seconds else (span[0], min(span[1], seconds))


def said_of_both(
    request: AboutTwo,
    asked: TwoRecordings,
    recordings: Sequence[AnsweredRecording],
    both: BothAnswers,
    answers: Sequence[tuple[str, int]],
    notes: list[str],
) -> dict[str, Any]:
    """The fields of `TwoAnswers`.

    Args:
        recordings: the clean and the corrupted one.
        answers: those that are compared.
    """
    clean, corrupted = recordings
    listed = asked.choices is not None
    return {
        "clean": clean,
        "corrupted": corrupted,
        "question": asked.question,
        "answer": answers[0][0],
        "instead": answers[1][0],
        "candidates": both.candidates,
        "quantity": "probability among choices" if listed else "next-token probability",
        "clean_probs": both.clean,
        "corrupted_probs": both.corrupted,
        "notes": notes,
        "model_name": shown_name(request.model),
        "command": request.shown(),
        "versions": own_versions(),
        "cautions": [
            *cautions.of_model(request.model, request.clean is not None),
            *cautions.of_mass(clean.mass, " in the clean run"),
            *cautions.of_mass(corrupted.mass, " in the corrupted run"),
        ],
    }


def show_answers(found: TwoAnswers, console: Console) -> None:
    """Print the question and both answers."""
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
