"""Metrics: functions of a run's logits that give one number a row.

Each factory returns a `Metric`, with a `.name` for axes and tables. All are differentiable, and
computed in float32 at least. Any function serves as a metric, in one of two forms:

- of the last position's logits, `[batch, d_vocab] -> [batch]`;
- TransformerLens's, `[batch, pos, d_vocab] -> [batch]` (or a scalar, of one row). Positions count
  from the end, as in `logits[:, -1, a]`, because only the last ones are there: the very last, or as
  many as `on_positions` or the function's attribute `logits_to_keep` says.
"""

import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lens_audio.data.answers import check_last_position
from lens_audio.inputs import AudioPrompt

Tokens = int | Sequence[int] | Sequence[Sequence[int]] | Tensor
Values = float | Float[Tensor, " batch"]
MetricFunction = Callable[[Tensor], Any]  # of logits, in one of the two forms


@dataclass(frozen=True)
class Metric:
    """A named function of logits, [batch, d_vocab] or [batch, pos, d_vocab], that gives [batch].

    `logits_to_keep` says that it takes the second form, and reads so many last positions; None
    leaves the form to be found on the unpatched runs. `answer` holds, row by row, the tokens that a
    prompt must end in for the metric to mean anything.
    """

    name: str
    function: Callable[..., Any]
    logits_to_keep: int | None = None
    answer: tuple[tuple[int, ...], ...] = ()

    def __call__(self, logits: Float[Tensor, "batch *pos d_vocab"]) -> Any:
        if self.logits_to_keep is not None:
            logits = _last_positions(logits, self.logits_to_keep)
        return self.function(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def on_positions(function: Callable[..., Any], n_last: int) -> Metric:
    """A metric of the last `n_last` positions, [batch, n_last, d_vocab] -> [batch].

    `on_positions(lambda logits: logits[:, -3, a], 3)` reads the third position from the end. It may
    be called with more positions than that, as TransformerLens's functions do.
    """
    return Metric(metric_name(function), function, n_last)


def logit_diff(correct: Tokens, incorrect: Tokens) -> Metric:
    """logit(correct) - logit(incorrect).

    Args:
        correct, incorrect: a token id for all rows, or one a row `[batch]`, or several whose mean
            is taken: `[batch, n]`, or `[1, n]` for all rows.

    Raises:
        ValueError: for no tokens; when called, for tokens of another batch or outside the logits.
    """
    right, wrong = _token_ids(correct), _token_ids(incorrect)

    def function(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return _pick(logits, right).mean(1) - _pick(logits, wrong).mean(1)

    return Metric("logit difference", function)


def log_prob(token: Tokens) -> Metric:
    """log p(token), in nats; of several tokens, the log of the sum of their probabilities.

    `token` and errors are as in `logit_diff`.
    """
    ids = _token_ids(token)
    return Metric("log probability", lambda logits: _pick(logits.log_softmax(-1), ids).logsumexp(1))


def probability(token: Tokens) -> Metric:
    """p(token); of several tokens, the sum. `token` and errors are as in `logit_diff`."""
    ids = _token_ids(token)
    return Metric("probability", lambda logits: _pick(logits.softmax(-1), ids).sum(1))


def answer_log_prob(prompt: AudioPrompt, answer: str | Sequence[str | Sequence[int]]) -> Metric:
    """log p(answer) in nats, over all its tokens, which are the last ones of the prompt.

    log p(a) = sum over t of log p(a_t | before, a_<t). The prompt ends in the answer, which
    `model.prompt(question, prefix=answer)` makes so, and its own tokens are read at every step
    (teacher forcing). Runs are compared on one answer: clean and corrupted prompts both end in it.

    The difference of two answers that share all tokens but the last is `logit_diff` of those two,
    with what they share as the prefix. Other answers cannot follow one prompt: make them two rows
    of a batch and subtract the values of the rows.

    Args:
        prompt: the prompt, or one like it, that is run; rows may have answers of unequal length.
        answer: its text, for all rows or one a row, or token ids, a list a row. The answer may be
            an end of the prefix.

    Raises:
        ValueError: for a prompt that does not end in the answer, or a right-padded one.
    """
    check_last_position(prompt)
    given = [answer] * len(prompt) if isinstance(answer, str) else list(answer)
    if len(given) != len(prompt):
        raise ValueError(f"{len(given)} answers for {len(prompt)} prompts; give one a row")
    rows = tuple(_end_of(prompt, row, one) for row, one in enumerate(given))
    n = max(map(len, rows))
    ids = torch.tensor([(0,) * (n - len(tokens)) + tokens for tokens in rows])
    is_answer = torch.tensor([[i >= n - len(tokens) for i in range(n)] for tokens in rows])

    def function(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        if len(logits) != len(ids):
            raise ValueError(f"answers for {len(ids)} rows, but the logits have {len(logits)}")
        before = logits[:, :-1].log_softmax(-1)
        found = before.gather(-1, ids.to(logits.device)[..., None]).squeeze(-1)
        return found.masked_fill(~is_answer.to(logits.device), 0.0).sum(-1)

    return Metric("log probability of the answer", function, n + 1, rows)


def kl_from(reference_logits: Float[Tensor, "rows d_vocab"]) -> Metric:
    """KL(reference || run) in nats: how far the next token's distribution is from the reference's.

    Args:
        reference_logits: those of another run at the same position; one row serves all.

    Raises:
        ValueError: when called, for logits of another batch or vocabulary.
    """

    def function(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        if reference_logits.shape not in (logits.shape, (1, logits.shape[1])):
            raise ValueError(
                f"reference logits of shape {tuple(reference_logits.shape)} for logits of shape "
                f"{tuple(logits.shape)}"
            )
        reference = reference_logits.detach().to(logits).log_softmax(-1)
        return (reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)

    return Metric("KL divergence", function)


def normalised(metric: Callable[..., Any], clean_value: Values, corrupted_value: Values) -> Metric:
    """Recovery, (x - corrupted) / (clean - corrupted): 0 is the corrupted run, 1 the clean one.

    Undefined, and therefore NaN, in rows where the two runs have the same value (equal to a
    millionth part, below which the quotient is rounding noise); a warning counts such rows.

    Args:
        metric: the metric to normalise.
        clean_value, corrupted_value: its values in the two runs, one a row or one for all.
    """
    clean, corrupted = _numbers(clean_value), _numbers(corrupted_value)
    scale = torch.maximum(clean.abs(), corrupted.abs())
    undefined = (clean - corrupted).abs() <= 1e-6 * scale
    if bool(undefined.any()):
        warnings.warn(
            "the metric is the same in the clean and the corrupted run in "
            f"{int(undefined.sum())} of {undefined.numel()} rows; recovery there is NaN",
            stacklevel=2,
        )
    span = (clean - corrupted).masked_fill(undefined, torch.nan)

    def function(logits: Float[Tensor, "batch *pos d_vocab"]) -> Float[Tensor, " batch"]:
        x = _one_a_row(metric(logits), logits)
        if span.shape not in ((), x.shape):
            raise ValueError(f"normalised by values of {len(span)} rows, called on {len(x)}")
        return (x - corrupted.to(x)) / span.to(x)

    name, reads = f"recovery of {metric_name(metric)}", positions_said(metric)
    return Metric(name, function, reads, getattr(metric, "answer", ()))


def metric_name(metric: Callable[..., Any]) -> str:
    """The metric's `.name`, or a plain function's own."""
    return str(getattr(metric, "name", getattr(metric, "__name__", type(metric).__name__)))


def metric_values(
    metric: Callable[..., Any],
    logits: Float[Tensor, "batch *pos d_vocab"],
    *,
    allow_nan: bool = False,
    name: str | None = None,
) -> Shaped[Tensor, " batch"]:
    """The metric of every row, checked. Errors call it `name`, by default its own.

    Raises:
        ValueError: unless the metric gives one number, not NaN, a row.
    """
    name = name or metric_name(metric)
    found = metric(logits)
    try:
        values = _one_a_row(torch.as_tensor(found), logits)
    except (TypeError, RuntimeError, ValueError):
        values = None
    if values is None or values.shape != logits.shape[:1]:
        shape = type(found).__name__ if values is None else f"shape {tuple(values.shape)}"
        raise ValueError(
            f"metric {name!r} gave {shape} for {len(logits)} examples; it must give one number a row"
        )
    undefined = values.isnan().nonzero().flatten().tolist()
    if undefined and not allow_nan:
        raise ValueError(f"metric {name!r} is NaN in rows {undefined}")
    return values


def positions_said(metric: Callable[..., Any]) -> int | None:
    """How many last positions a metric of [batch, pos, d_vocab] says it reads; None: it says nothing.

    Raises:
        ValueError: for a `logits_to_keep` that is no positive integer.
    """
    n_last = getattr(metric, "logits_to_keep", None)
    if n_last is None or (type(n_last) is int and n_last > 0):
        return n_last
    raise ValueError(
        f"metric {metric_name(metric)!r} has logits_to_keep={n_last!r}; it must be how many last "
        "positions the metric reads, 1 or more"
    )


def logits_needed(metrics: Iterable[Callable[..., Any]], *prompts: AudioPrompt) -> int:
    """How many last positions' logits a run must keep for all of these metrics.

    Raises:
        ValueError: for a metric of more positions than some row has, or of an answer that a row
            does not end in.
    """
    needed = 1
    for metric in metrics:
        said, answer = positions_said(metric) or 1, getattr(metric, "answer", ())
        needed = max(needed, said)
        for prompt in prompts:
            for row, tokens in enumerate(prompt.tokens):
                ids = list(answer[row]) if row < len(answer) else []
                n_real = int(prompt.attention_mask[row].sum())
                n_read = len(ids) + 1 if ids else said
                if n_read > n_real or said > len(tokens):
                    raise ValueError(
                        f"metric {metric_name(metric)!r} reads {max(n_read, said)} positions, and "
                        f"row {row} of the clean or the corrupted prompt has {n_real}"
                    )
                if ids and tokens[-len(ids) :].tolist() != ids:
                    raise ValueError(
                        f"metric {metric_name(metric)!r} is of an answer that row {row} of the clean "
                        "or the corrupted prompt does not end in; give both the same prefix="
                    )
    return needed


@dataclass(frozen=True)
class AppliedMetric:
    """A metric with the form of logits it takes: found once, and never guessed anew for a cell."""

    name: str
    metric: Callable[..., Any]
    n_last: int | None  # None: it takes [example, d_vocab], of the last position

    @classmethod
    def to(
        cls,
        metric: Callable[..., Any],
        *runs: Float[Tensor, "example last d_vocab"],
        name: str | None = None,
    ) -> "AppliedMetric":
        """The metric in the form that it says, or else the one that fits the unpatched runs.

        A function that fits both forms with other values, or that reads positions which are not
        there, is refused: either would give a wrong number.

        Raises:
            ValueError: that, and what `metric_values` raises. Errors of the function come through.
        """
        name, said = name or metric_name(metric), positions_said(metric)
        if said is not None:
            return cls(name, metric, said)
        of_last, of_positions = cls(name, metric, None), cls(name, metric, 1)
        by_row, by_position = of_last._attempt(runs), of_positions._attempt(runs)
        if isinstance(by_row, Tensor):
            if isinstance(by_position, Tensor) and not _same(by_row, by_position):
                raise ValueError(
                    f"metric {name!r} could mean two things: of logits [example, d_vocab] it gives "
                    "other values than of [example, pos, d_vocab]. Say which: "
                    "metrics.on_positions(metric, 1) for the second, and for the first "
                    "metrics.on_positions(lambda logits: metric(logits[:, -1]), 1)"
                )
            return of_last
        if isinstance(by_position, Tensor):
            longer = [F.pad(run[:, -1:], (0, 0, 2, 0), value=torch.nan) for run in runs]
            again = cls(name, metric, 3)._attempt(longer)
            if isinstance(again, Tensor) and _same(again, by_position):  # no other position is read
                return of_positions
        for error in (by_row, by_position):
            if isinstance(error, ValueError):
                raise error
        if isinstance(by_position, Tensor | IndexError):
            raise ValueError(
                f"metric {name!r} fits neither the last position's logits, [example, d_vocab] "
                f"({by_row}), nor [example, pos, d_vocab] with the last position alone. If it reads "
                "earlier ones, count them from the end and say how many there must be: "
                "metrics.on_positions(metric, n_last)"
            ) from by_row
        raise by_row

    def __call__(
        self, logits: Float[Tensor, "row last d_vocab"], *, allow_nan: bool = False
    ) -> Shaped[Tensor, " row"]:
        """One number a row, checked as by `metric_values`."""
        last = logits[:, -1] if self.n_last is None else _last_positions(logits, self.n_last)
        return metric_values(self.metric, last, allow_nan=allow_nan, name=self.name)

    def _attempt(self, runs: Sequence[Tensor]) -> Tensor | Exception:
        """Its values, or why there are none."""
        try:
            with warnings.catch_warnings(action="ignore"):  # they come again when it is applied
                return torch.cat([self(run, allow_nan=True).double() for run in runs])
        except Exception as error:
            return error


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


def _last_positions(
    logits: Float[Tensor, "batch pos d_vocab"], n: int
) -> Float[Tensor, "batch last d_vocab"]:
    if logits.ndim != 3 or logits.shape[1] < n:
        raise ValueError(f"a metric of {n} positions, of logits of shape {tuple(logits.shape)}")
    return logits[:, -n:]


def _one_a_row(values: Tensor, logits: Float[Tensor, "batch *pos d_vocab"]) -> Tensor:
    """A scalar of TransformerLens's form is one number of one row."""
    return values.reshape(1) if values.ndim == 0 and logits.ndim == 3 else values


def _end_of(prompt: AudioPrompt, row: int, answer: str | Sequence[int]) -> tuple[int, ...]:
    """The last tokens of a row, which the answer is."""
    real = prompt.tokens[row][prompt.attention_mask[row]].tolist()
    if not isinstance(answer, str):
        ids = [int(token) for token in answer]
        if 0 < len(ids) < len(real) and real[-len(ids) :] == ids:
            return tuple(ids)
    elif prompt.tokenizer is None:
        raise ValueError("this prompt has no tokenizer; give the answer as token ids, a list a row")
    else:
        text = unicodedata.normalize("NFC", answer)  # as the tokenizers do
        for n in range(1, min(len(real), len(text.encode()) + 1)):  # a token is a byte or more
            end = prompt.tokenizer.decode(real[-n:], clean_up_tokenization_spaces=False)
            if unicodedata.normalize("NFC", end) == text:
                return tuple(real[-n:])
    raise ValueError(
        f"row {row} of the prompt does not end in whole tokens of the answer {answer!r}; make it "
        "with model.prompt(question, audio, prefix=answer). An answer may begin only where a token "
        "does"
    )


def _token_ids(tokens: Any) -> Int[Tensor, "rows n"]:
    """[1, 1] for one token, [batch, 1] for one a row."""
    ids = torch.as_tensor(tokens)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.numel() == 0:
        raise ValueError(f"token ids must be integers, and at least one; not {tokens!r}")
    if ids.ndim > 2:
        raise ValueError(f"token ids of shape {tuple(ids.shape)}; expected [batch] or [batch, n]")
    return ids.reshape(1, 1).long() if ids.ndim == 0 else ids.reshape(len(ids), -1).long()


def _pick(
    x: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "rows n"]
) -> Float[Tensor, "batch n"]:
    if len(ids) not in (1, len(x)):
        raise ValueError(
            f"token ids for {len(ids)} rows, but the logits have {len(x)}; several tokens for "
            "every row are given as [[a, b]]"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= x.shape[1]:
        raise ValueError(
            f"token ids from {int(ids.min())} to {int(ids.max())}, but the logits are of tokens 0 "
            f"to {x.shape[1] - 1}"
        )
    return x.gather(1, ids.to(x.device).expand(len(x), -1))


def _numbers(values: Values) -> Tensor:
    return torch.as_tensor(values).detach().double().cpu()
