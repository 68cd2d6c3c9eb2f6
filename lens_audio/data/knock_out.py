"""Answers of a model some of whose heads may not attend to the audio."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import choice_logits, first_tokens
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem
from lens_audio.hooks.selection import Hook
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache
from lens_audio.sites import Head


@torch.no_grad()
def right_answers_without(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    cuts: Sequence[Sequence[Head]],
    *,
    queries: str = "text",
    batch_size: int = 16,
    verbose: bool = True,
) -> tuple[Bool[Tensor, "cut item"], Float[Tensor, "cut item"]]:
    """Whether each item is answered right without each set of heads, and the right answer's
    probability among the choices, which are told apart by their first token.

    Args:
        cuts: sets of (layer, head) pairs that may not attend to the audio; none of them is the
            model as it is.
        queries: from where the audio is forbidden: every text position ("text"), or the last prompt
            position alone ("last").

    Raises:
        ValueError: for other queries, or choices that begin with the same token.
    """
    correct, probs = [], []
    for batch, prompt in batches(model, items, batch_size, verbose, "knocking out"):
        answers = torch.tensor([item.answer_index for item in batch])
        tokens = first_tokens(model, batch)
        found = choice_probs_without(model, prompt, cuts, tokens, queries).cpu()
        correct.append(found.argmax(-1) == answers)
        probs.append(found.gather(-1, answers.expand(len(found), -1)[..., None])[..., 0])
    return torch.cat(correct, dim=1), torch.cat(probs, dim=1)


@torch.no_grad()
def choice_probs_without(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    cuts: Sequence[Sequence[Head]],
    tokens: Int[Tensor, "batch choice"],
    queries: str = "text",
) -> Float[Tensor, "cut batch choice"]:
    """Each choice's probability among the choices without each set of heads.

    No text before the end of the audio has read any of it to tell (a clip comes whole before what
    is asked of it), so only the positions after that are run for each set, over the cached keys and
    values of those before.

    Raises:
        ValueError: for queries that are neither "text" nor "last".
    """
    if queries not in ("text", "last"):
        raise ValueError(f"queries must be 'text' or 'last', not {queries!r}")
    resid = model(prompt, stop_at_layer=0)
    mask, audio = (m.to(resid.device) for m in (prompt.attention_mask, prompt.audio_mask))
    readers = mask & ~audio
    if queries == "last":
        readers = torch.zeros_like(mask)
        readers[:, -1] = True
    after_audio = readers & (audio.cumsum(1) > 0)
    start = max(1, int(after_audio.any(0).long().argmax()))
    past = KeyValueCache(model.cfg.n_layers)
    begin = {"start_at_layer": 0, "past_kv_cache": past, "logits_to_keep": 1}
    model(resid[:, :start], attention_mask=mask[:, :start], **begin)
    past.freeze()
    chosen = []
    for cut in cuts:
        with model.hooks(fwd_hooks=_forbid(cut, after_audio, audio)):
            logits = model(resid[:, start:], attention_mask=mask[:, start:], **begin)[:, -1]
        chosen.append(choice_logits(logits, tokens).float().softmax(-1))
    return torch.stack(chosen)


def _forbid(
    cut: Sequence[Head], readers: Bool[Tensor, "batch pos"], audio: Bool[Tensor, "batch pos"]
) -> list[Hook]:
    """Hooks that forbid these heads' readers the audio, over a cache: the queries are the last ones.

    `hooks.knock_out_attention` selects positions of the run that began the sequence, and in a batch
    of other text lengths some of these readers come after it and some audio too.
    """
    forbidden = (readers[:, :, None] & audio[:, None, :])[:, None]
    pairs: list[Hook] = []
    for layer in sorted({layer for layer, _ in cut}):
        heads = [head for where, head in cut if where == layer]

        def function(
            scores: Float[Tensor, "batch head query key"], hook: Any, heads: list[int] = heads
        ) -> Float[Tensor, "batch head query key"]:
            chosen = torch.zeros(scores.shape[1], 1, 1, dtype=torch.bool, device=scores.device)
            chosen[heads] = True
            return scores.masked_fill(forbidden[:, :, -scores.shape[2] :] & chosen, -torch.inf)

        pairs.append((f"blocks.{layer}.attn.hook_attn_scores", function))
    return pairs


def search_backups(
    prob: Callable[[Sequence[Sequence[Head]]], Sequence[float]],
    everything: Sequence[Head],
    heads: Sequence[Head],
    enough: float,
    most: int = 20,
) -> tuple[list[Head], list[float]]:
    """The heads that must be cut besides `heads` until the answer no longer profits from the audio.

    Greedy: the one whose loss costs most of the right answer's probability comes next. Also that
    probability, without `heads` and after each backup's loss.

    Args:
        prob: the right answer's mean probability without each of some sets of heads.
        everything: all heads there are.
        enough: the probability at which the search ends.
        most: backups to look for.
    """
    cut = list(heads)
    path = [float(prob([cut])[0])]
    while path[-1] > enough and len(path) <= most and len(cut) < len(everything):
        left = [head for head in everything if head not in cut]
        found = [float(p) for p in prob([[*cut, head] for head in left])]
        worst = min(range(len(left)), key=found.__getitem__)
        cut.append(left[worst])
        path.append(found[worst])
    return cut[len(heads) :], path
