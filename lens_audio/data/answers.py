"""What a model would answer: the probabilities of given answers, of single tokens, and the choice."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache


@torch.no_grad()
def choice_log_probs(
    model: HookedAudioTransformer, prompt: AudioPrompt, choices: Sequence[str]
) -> Float[Tensor, "batch choice"]:
    """The log-probability, in nats, that the answer begins with each choice.

    log p(c) = sum over t of log p(c_t | prompt, c_<t), over all tokens of the choice. The prompt is
    read once; every choice continues its cached keys and values. Hooks set on the model act.

    Raises:
        ValueError: for no choices, an empty one or one given twice, or a right-padded batch.
    """
    return option_log_probs(model, prompt, [_choice_tokens(model, choices)] * len(prompt))


@torch.no_grad()
def option_log_probs(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    options: Sequence[Sequence[Sequence[int]]],
) -> Float[Tensor, "batch option"]:
    """The log-probability, in nats, of each row's own options, which are lists of tokens.

    As `choice_log_probs`; rows with fewer options than the most end in -inf.

    Raises:
        ValueError: for a right-padded batch.
    """
    check_last_position(prompt)
    past = KeyValueCache(model.cfg.n_layers)
    first = _log_softmax(model(prompt, past_kv_cache=past, logits_to_keep=1))  # [batch, 1, d_vocab]
    past.freeze()
    totals = []
    for number in range(max(map(len, options))):
        listed = [row[number] if number < len(row) else [] for row in options]
        length = max(map(len, listed))
        tokens = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in listed])
        is_real = torch.tensor([[at < len(ids) for at in range(length)] for ids in listed])
        tokens, is_real = tokens.to(model.device), is_real.to(model.device)
        predictions = first
        if length > 1:
            rest = _log_softmax(model(tokens[:, :-1], past_kv_cache=past))
            predictions = torch.cat([first, rest], dim=1)
        scores = predictions.gather(-1, tokens[..., None])[..., 0].masked_fill(~is_real, 0)
        totals.append(scores.sum(1).masked_fill(~is_real.any(1), -torch.inf))
    return torch.stack(totals, dim=1)


def choice_probs(log_probs: Float[Tensor, "batch choice"]) -> Float[Tensor, "batch choice"]:
    """Probabilities among the choices alone: they sum to 1 over the choices."""
    return log_probs.softmax(-1)


@torch.no_grad()
def next_token_probs(
    model: HookedAudioTransformer, prompt: AudioPrompt
) -> Float[Tensor, "batch d_vocab"]:
    """The probability of every token as the answer's first.

    Raises:
        ValueError: for a right-padded batch.
    """
    check_last_position(prompt)
    return _log_softmax(model(prompt, logits_to_keep=1))[:, -1].exp()


def _choice_tokens(model: HookedAudioTransformer, choices: Sequence[str]) -> list[list[int]]:
    if isinstance(choices, str) or not choices:
        raise ValueError(f"choices must be a list of at least one text, not {choices!r}")
    empty = [number for number, choice in enumerate(choices) if not choice.strip()]
    if empty:
        raise ValueError(f"choices {empty} are empty")
    twice = sorted({choice for choice in choices if choices.count(choice) > 1})
    if twice:
        raise ValueError(f"choices given more than once: {twice}")
    return [model.required_tokenizer.encode(choice, add_special_tokens=False) for choice in choices]


def check_last_position(prompt: AudioPrompt) -> None:
    """ValueError for a right-padded batch, whose answers would not follow the last position."""
    if not bool(prompt.attention_mask[:, -1].all()):
        raise ValueError("an answer continues the last position, so pad the prompts on the left")


def _log_softmax(logits: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes d_vocab"]:
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def first_tokens(
    model: HookedAudioTransformer, items: Sequence[AudioQAItem]
) -> Int[Tensor, "item choice"]:
    """The first token of each choice; rows with fewer choices than the most end in -1.

    Raises:
        ValueError: where two choices of an item begin with the same token.
    """
    rows = []
    for item in items:
        row = [
            model.required_tokenizer.encode(c, add_special_tokens=False)[0] for c in item.choices
        ]
        if len(set(row)) < len(row):
            raise ValueError(
                f"item {item.id}: two of its choices begin with the same token, so the first token "
                "does not tell them apart"
            )
        rows.append(row)
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], device=model.device)


def choice_logits(
    logits: Float[Tensor, "item d_vocab"], tokens: Int[Tensor, "item choice"]
) -> Float[Tensor, "item choice"]:
    """The logit of each choice's first token (of `first_tokens`); -inf where there is no choice."""
    return logits.gather(1, tokens.clamp(min=0)).masked_fill(tokens < 0, -torch.inf)


def is_single_token(model: HookedAudioTransformer, items: Sequence[AudioQAItem]) -> bool:
    """Whether every choice is one token, so that its first token is all of it."""
    texts = {choice for item in items for choice in item.choices}
    return all(
        len(model.required_tokenizer.encode(t, add_special_tokens=False)) == 1 for t in texts
    )


@torch.no_grad()
def answer_log_probs(
    model: HookedAudioTransformer, items: Sequence[AudioQAItem], prompt: AudioPrompt
) -> Float[Tensor, "item choice"]:
    """The log-probability of each choice of each item, in nats; hooks on the model act.

    Rows with fewer choices than the most end in -inf. One forward for the batch where every choice is
    one token; else one prompt at a time, whose choices are scored whole by `choice_log_probs`.
    """
    if is_single_token(model, items):
        log_probs = _log_softmax(model(prompt, logits_to_keep=1)[:, -1])
        return choice_logits(log_probs, first_tokens(model, items))
    rows = []
    for item in items:
        alone = model.prompt(item.question, audio=item.audio)
        rows.append(choice_log_probs(model, alone, item.choices)[0])
    return pad_sequence(rows, batch_first=True, padding_value=-torch.inf)


@torch.no_grad()
def chosen_answers(
    model: HookedAudioTransformer, items: Sequence[AudioQAItem], prompt: AudioPrompt
) -> list[str]:
    """The choice of highest probability for each item, by `answer_log_probs`."""
    best = answer_log_probs(model, items, prompt).argmax(-1).tolist()
    return [item.choices[i] for item, i in zip(items, best, strict=True)]
