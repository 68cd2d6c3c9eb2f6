"""What a model answers to a batch under several steerings at once, each reading the prompt once.

Steering changes the final representation and nothing that is attended to. So runs that have said
the same so far share the forward of what they say next, and part only where their tokens differ;
and the log-probability of an option under any steering follows from one forward over the options.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.model.shared_prefix import Continuations
from lens_audio.steering.audio_silence.silent_prefixes import Prefill

CHUNK = 256  # rows of logits at a time, as each is a whole vocabulary

Steps = Float[Tensor, "run row d_model"]  # what each run adds to the final representation


@dataclass
class _Branch:
    """What some runs of one row have said alike."""

    row: int
    runs: list[int]
    cell: int = 0  # where its next position is computed


@torch.no_grad()
def generate(
    model: HookedAudioTransformer,
    prefill: Prefill,
    steps: Steps,
    max_new_tokens: int,
    is_closed: Callable[[str], bool],
) -> list[list[str]]:
    """Each run's greedy answer to each row, as text.

    An answer ends at an end-of-sequence token, or once `is_closed` says so of its text.
    """
    n_runs, n_rows = len(steps), len(prefill.final)
    said: list[list[list[int]]] = [[[] for _ in range(n_rows)] for _ in range(n_runs)]
    branches = [_Branch(row, list(range(n_runs))) for row in range(n_rows)]
    past, final = Continuations.of(prefill.past), prefill.final[None]  # [cell, row, d_model]
    ends = set(model.cfg.eos_token_ids or [model.required_tokenizer.eos_token_id])
    for step in range(max_new_tokens):
        tokens = _next_tokens(model, final, steps, branches)
        parted = list(_part(branches, tokens))
        going = []
        for branch, parent, token in parted:
            if token in ends:
                continue
            for run in branch.runs:
                said[run][branch.row].append(token)
            text = model.required_tokenizer.decode(said[branch.runs[0]][branch.row])
            if not is_closed(text):
                going.append((branch, parent, token))
        if not going or step + 1 == max_new_tokens:
            break
        branches = [branch for branch, _, _ in going]
        final = _say(model, past, going, n_rows)
    return [
        [t.strip() for t in model.required_tokenizer.batch_decode(rows, skip_special_tokens=True)]
        for rows in said
    ]


def _next_tokens(
    model: HookedAudioTransformer,
    final: Float[Tensor, "cell row d_model"],
    steps: Steps,
    branches: Sequence[_Branch],
) -> list[list[int]]:
    """The likeliest next token of each run of each branch."""
    places = [(run, branch.cell, branch.row) for branch in branches for run in branch.runs]
    run, cell, row = torch.tensor(places, device=final.device).T
    steered = final[cell, row] + steps[run, row]
    logits = (model.logits_of(h[:, None])[:, 0] for h in steered.split(CHUNK))
    best = iter(torch.cat([part.argmax(-1) for part in logits]).tolist())
    return [[next(best) for _ in branch.runs] for branch in branches]


def _part(
    branches: Sequence[_Branch], tokens: Sequence[Sequence[int]]
) -> Iterator[tuple[_Branch, int, int]]:
    """The branches after these tokens, each with its parent's cell and its token."""
    for branch, chosen in zip(branches, tokens, strict=True):
        by_token: dict[int, list[int]] = {}
        for run, token in zip(branch.runs, chosen, strict=True):
            by_token.setdefault(token, []).append(run)
        for token, runs in by_token.items():
            yield _Branch(branch.row, runs), branch.cell, token


def _say(
    model: HookedAudioTransformer,
    past: Continuations,
    going: Sequence[tuple[_Branch, int, int]],
    n_rows: int,
) -> Float[Tensor, "cell row d_model"]:
    """Read each branch's token behind its parent's; cells that no branch needs repeat the first."""
    used = [0] * n_rows
    for branch, _, _ in going:
        branch.cell = used[branch.row]
        used[branch.row] += 1
    parents = torch.zeros(max(used), n_rows, dtype=torch.long, device=model.device)
    tokens = torch.zeros_like(parents)
    for branch, parent, token in going:
        parents[branch.cell, branch.row] = parent
        tokens[branch.cell, branch.row] = token
    past.select((parents * n_rows + torch.arange(n_rows, device=parents.device)).flatten())
    resid = model(tokens.view(-1, 1), past_kv_cache=past, stop_at_layer=model.cfg.n_layers)
    return resid[:, -1].unflatten(0, (-1, n_rows))


@torch.no_grad()
def steered_log_probs(
    model: HookedAudioTransformer,
    prefill: Prefill,
    steps: Steps,
    options: Sequence[Sequence[Sequence[int]]],
) -> list[list[list[float]]]:
    """Each run's log-probability (nats) of each row's options, which are lists of tokens.

    log p(c) = sum over t of log p(c_t | prompt, c_<t), over all tokens of the option.
    """
    n_rows, n_cells = len(prefill.final), max(map(len, options))
    longest = max(len(tokens) for row in options for tokens in row)
    tokens = torch.zeros(n_cells, n_rows, longest, dtype=torch.long)
    is_real = torch.zeros(n_cells, n_rows, longest, dtype=torch.bool)
    for row, listed in enumerate(options):
        for cell, option in enumerate(listed):
            tokens[cell, row, : len(option)] = torch.tensor(option)
            is_real[cell, row, : len(option)] = True
    tokens, is_real = tokens.to(model.device), is_real.to(model.device)
    first = prefill.final.expand(n_cells, -1, -1)[:, :, None]
    if longest > 1:
        past = Continuations.of(prefill.past)
        past.select(torch.arange(n_rows, device=model.device).repeat(n_cells))
        said = tokens[:, :, :-1].flatten(0, 1)
        resid = model(said, past_kv_cache=past, stop_at_layer=model.cfg.n_layers)
        final = torch.cat([first, resid.unflatten(0, (n_cells, n_rows))], dim=2)
    else:
        final = first
    totals = [_scores(model, final + step[:, None], tokens, is_real) for step in steps]
    return [
        [total[: len(listed), row].tolist() for row, listed in enumerate(options)]
        for total in totals
    ]


def _scores(
    model: HookedAudioTransformer,
    final: Float[Tensor, "cell row token d_model"],
    tokens: Int[Tensor, "cell row token"],
    is_real: Tensor,
) -> Float[Tensor, "cell row"]:
    """Summed log-probabilities, on the CPU."""
    found = []
    for h, token in zip(final[is_real].split(CHUNK), tokens[is_real].split(CHUNK), strict=True):
        logits = model.logits_of(h[:, None])[:, 0]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        found.append(logits.log_softmax(-1, dtype=dtype).gather(-1, token[:, None])[:, 0])
    scores = torch.zeros(is_real.shape, dtype=found[0].dtype, device=is_real.device)
    scores[is_real] = torch.cat(found)
    return scores.sum(-1).cpu()
