"""What a model answers to two recordings, which two answers are compared, and how that is shown."""

from collections.abc import Sequence
from dataclasses import replace

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
# To one recording: the text, its first token, the candidates' probabilities, and that of all choices.
Answered = tuple[str, int, list[float], float | None]


def check_comparable(checkpoint: CheckpointFiles, asked: TwoRecordings) -> None:
    """Refuse answers to compare that their first tokens cannot tell apart, whatever the model says.

    Raises:
        ValueError: for those, or answers that are none of the choices.
    """
    check_named(asked.choices, asked.answer, asked.instead)
    named = (asked.answer, asked.instead)
    possible = [[one] if one is not None else asked.choices or [] for one in named]
    begins = {first_token(checkpoint.tokenizer, text) for texts in possible for text in texts}
    if all(possible) and len(begins) == 1:
        texts = list(dict.fromkeys(possible[0] + possible[1]))
        raise ValueError(
            f"{', '.join(map(repr, texts))} begin with the same token; name other answers"
        )


def ask(
    model: HookedAudioTransformer, asked: TwoRecordings, excerpts: list[Excerpt], pair: Pair
) -> tuple[list[str], list[AnsweredRecording]]:
    """The candidates, then what is answered to the clean recording and to the corrupted one.

    That is the likeliest choice, or without choices what the model says.
    """
    prompts = [prompt.to(model.device) for prompt in (pair.clean, pair.corrupted)]
    if asked.choices is None:
        candidates, answers = _said(model, prompts)
    else:
        candidates = asked.choices
        answers = [_chosen(model, prompt, candidates) for prompt in prompts]
    both = zip(
        ("clean", "corrupted"), (asked.clean, asked.corrupted), (excerpts * 2)[:2],
        (pair.clean, pair.corrupted), answers, strict=True,
    )  # fmt: skip
    return candidates, [
        AnsweredRecording(
            role, recording.name, prompt, *answer,
            _within(excerpt.within(recording.span), prompt.clip_seconds(0)), excerpt.said,
        )
        for role, recording, excerpt, prompt, answer in both
    ]  # fmt: skip


def _chosen(model: HookedAudioTransformer, prompt: AudioPrompt, choices: list[str]) -> Answered:
    probs, mass = cautions.probs_and_mass(choice_log_probs(model, prompt, choices))
    best = choices[max(range(len(probs)), key=probs.__getitem__)]
    return best, first_token(model.tokenizer, best), probs, mass


def _said(
    model: HookedAudioTransformer, prompts: list[AudioPrompt]
) -> tuple[list[str], list[Answered]]:
    nexts = [next_token_probs(model, prompt)[0] for prompt in prompts]
    likeliest = [int(token) for p in nexts for token in p.topk(N_NEXT_TOKENS).indices]
    shown = sorted(set(likeliest), key=lambda t: -float(max(p[t] for p in nexts)))
    said = [model.generate(p, return_type="str", verbose=False).strip() for p in prompts]
    return [_visible(model, token) for token in shown], [
        (text, int(p.argmax()), [float(p[token]) for token in shown], None)
        for text, p in zip(said, nexts, strict=True)
    ]


def compared(
    model: HookedAudioTransformer, asked: TwoRecordings, runs: Sequence[AnsweredRecording]
) -> list[tuple[str, int]]:
    """The two answers whose logits are compared, each with its first token.

    Args:
        runs: the clean and the corrupted one.

    Raises:
        ValueError: for answers that their first tokens do not tell apart.
    """
    pair = []
    for named, run in zip((asked.answer, asked.instead), runs, strict=True):
        if named is not None:
            pair.append((named, first_token(model.tokenizer, named)))
        else:
            word = run.answer if asked.choices is not None else _visible(model, run.token)
            pair.append((word, run.token))
    (first, token), (second, other) = pair
    if token != other:
        return pair
    if first != second:
        raise ValueError(f"{first!r} and {second!r} begin with the same token; name other answers")
    if asked.answer is not None or asked.instead is not None:
        raise ValueError(
            f"both answers to compare are {first!r}; name two with --answer and --instead"
        )
    raise ValueError(
        f"the answer to both recordings begins with {first!r}, so there is nothing to compare; "
        "name two answers with --answer and --instead"
    )


def _visible(model: HookedAudioTransformer, token: int) -> str:
    return repr(model.to_single_str_token(token))[1:-1]


def _within(span: tuple[float, float] | None, seconds: float) -> tuple[float, float] | None:
    """A span as far as the recording goes."""
    return None if span is None or span[0] >= seconds else (span[0], min(span[1], seconds))


def two_answers(
    request: AboutTwo,
    asked: TwoRecordings,
    candidates: list[str],
    runs: Sequence[AnsweredRecording],
    logit_differences: Sequence[float],
    answers: Sequence[tuple[str, int]],
    notes: list[str],
) -> TwoAnswers:
    """All that is told of both recordings.

    Args:
        runs, logit_differences: of the clean and the corrupted recording.
        answers: those that are compared.
    """
    clean, corrupted = (
        replace(run, logit_difference=value)
        for run, value in zip(runs, logit_differences, strict=True)
    )
    listed = asked.choices is not None
    return TwoAnswers(
        clean=clean,
        corrupted=corrupted,
        question=asked.question,
        answer=answers[0][0],
        instead=answers[1][0],
        candidates=candidates,
        quantity="probability among choices" if listed else "next-token probability",
        notes=notes,
        model_name=shown_name(request.model),
        command=request.shown(),
        versions=own_versions(),
        cautions=[
            *cautions.of_model(request.model, request.clean is not None),
            *cautions.of_mass(clean.mass, " in the clean run"),
            *cautions.of_mass(corrupted.mass, " in the corrupted run"),
        ],
    )


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
