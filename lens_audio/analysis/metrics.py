"""Metrics: functions of the last position's logits that give one number a row.

Each factory returns a `Metric`, called with logits `[batch, d_vocab]`, with a `.name` for axes and
tables. Any function of that form serves as a metric too. All are differentiable, and computed in
float32 at least.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tokens = int | Sequence[int] | Sequence[Sequence[int]] | Tensor
Values = float | Float[Tensor, " batch"]


@dataclass(frozen=True)
class Metric:
    """A named function of logits [batch, d_vocab] that gives [batch]."""

    name: str
    function: Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]

    def __call__(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return self.function(logits.to(dtype))


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

    def function(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        x = metric(logits)
        if span.shape not in ((), x.shape):
            raise ValueError(f"normalised by values of {len(span)} rows, called on {len(x)}")
        return (x - corrupted.to(x)) / span.to(x)

    return Metric(f"recovery of {metric_name(metric)}", function)


def metric_name(metric: Callable[..., Any]) -> str:
    """The metric's `.name`, or a plain function's own."""
    return str(getattr(metric, "name", getattr(metric, "__name__", type(metric).__name__)))


def metric_values(
    metric: Callable[..., Any], logits: Float[Tensor, "batch d_vocab"]
) -> Float[Tensor, " batch"]:
    """The metric of every row, checked.

    Raises:
        ValueError: unless the metric gives one number, not NaN, a row.
    """
    values = metric(logits)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"metric {metric_name(metric)!r} gave {shape}; it must give one number a row, "
            f"{tuple(logits.shape[:1])}"
        )
    undefined = values.isnan().nonzero().flatten().tolist()
    if undefined:
        raise ValueError(f"metric {metric_name(metric)!r} is NaN in rows {undefined}")
    return values


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
