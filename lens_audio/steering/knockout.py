"""What the specialists are for: answers without them, against as many random heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.analysis.listening import Head, check_heads
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import choice_logits, first_tokens
from lens_audio.data.batches import batches
from lens_audio.data.items import AudioQAItem, check_items
from lens_audio.hooks.selection import Hook
from lens_audio.inputs import AudioPrompt
from lens_audio.model import KeyValueCache
from lens_audio.stats import Interval, over_draws, paired_difference, wilson


@dataclass(frozen=True, eq=False)
class KnockOut:
    """Answers of the model as it is, without the specialists, and without random heads.

    `probs` are the right answer's, among the choices: where accuracy is near its ceiling they show
    what it hides. The first row is the model as it is, the second without the specialists, and
    the others are the random draws.
    """

    heads: list[Head]
    draws: list[list[Head]]
    correct: Bool[Tensor, "cut item"]
    probs: Float[Tensor, "cut item"]

    def __repr__(self) -> str:
        parts = "; ".join(f"{name} {found}" for name, found in self.accuracies.items())
        return f"KnockOut({self.correct.shape[1]} items; accuracy: {parts})"

    @property
    def accuracies(self) -> dict[str, Interval]:
        """Each with a 95 % interval: Wilson, and for the random heads over the draws."""
        return {
            "all heads": wilson(self.correct[0]),
            "specialists knocked out": wilson(self.correct[1]),
            "random heads knocked out": over_draws(self.correct[2:]),
        }

    @property
    def drop_difference(self) -> Interval:
        """How much more accuracy the specialists' loss costs than the random heads'."""
        return paired_difference(self.correct[2:], self.correct[1])

    @property
    def prob_drop_difference(self) -> Interval:
        """The same of the right answer's probability among the choices."""
        return paired_difference(self.probs[2:], self.probs[1])


def random_heads(
    n_layers: int, n_heads: int, k: int, n_draws: int, seed: int, but: Sequence[Head] = ()
) -> list[list[Head]]:
    """Draws of k different heads each, none of them in `but`.

    Raises:
        ValueError: if fewer than k are left, or no draws are asked for.
    """
    taken = set(but)
    left = [(l, h) for l in range(n_layers) for h in range(n_heads) if (l, h) not in taken]
    if not 1 <= k <= len(left):
        raise ValueError(f"cannot draw {k} random heads: {len(left)} are left besides those chosen")
    if n_draws < 1:
        raise ValueError(f"n_draws must be at least 1, not {n_draws}")
    rng = np.random.default_rng(seed)
    return [
        [left[i] for i in sorted(rng.choice(len(left), k, replace=False))] for _ in range(n_draws)
    ]


@torch.no_grad()
def knock_out(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    heads: Sequence[Head],
    *,
    n_draws: int = 10,
    seed: int = 0,
    queries: str = "text",
    draw_from_all: bool = False,
    batch_size: int = 16,
    verbose: bool = True,
) -> KnockOut:
    """Forbid heads to attend to the audio, and as many random heads, in several draws.

    Choices are told apart by their first token.

    Args:
        queries: from where the audio is forbidden: from every text position, so that nothing these
            heads read of the audio reaches the answer, or from the last prompt position alone,
            where the mass is measured and which other positions may already have told of the audio.
        draw_from_all: random heads may be among `heads` too; otherwise they never are.

    Raises:
        ValueError: for heads that do not exist, too few other heads to draw from, or hooks set on
            the model.
    """
    model.check_no_hooks()
    if queries not in ("text", "last"):
        raise ValueError(f"queries must be 'text' or 'last', not {queries!r}")
    check_items(items, least=2, needs=("answer",))
    cfg = model.cfg
    check_heads(heads, cfg.n_layers, cfg.n_heads)
    but = () if draw_from_all else heads
    draws = random_heads(cfg.n_layers, cfg.n_heads, len(heads), n_draws, seed, but)
    correct, probs = [], []
    for batch, prompt in batches(model, items, batch_size, verbose, "knocking out"):
        answers = torch.tensor([item.answer_index for item in batch])
        tokens = first_tokens(model, batch)
        found = _without(model, prompt, [[], list(heads), *draws], tokens, queries).cpu()
        correct.append(found.argmax(-1) == answers)
        probs.append(found.gather(-1, answers.expand(len(found), -1)[..., None])[..., 0])
    return KnockOut(list(heads), draws, torch.cat(correct, dim=1), torch.cat(probs, dim=1))


def _without(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    cuts: Sequence[list[Head]],
    tokens: Int[Tensor, "batch choice"],
    queries: str,
) -> Float[Tensor, "cut batch choice"]:
    """Each choice's probability among the choices without each set of heads.

    No text before the end of the audio has read any of it to tell (a clip comes whole before what
    is asked of it), so only the positions after that are run for each set, over the cached keys and
    values of those before.
    """
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
    cut: list[Head], readers: Bool[Tensor, "batch pos"], audio: Bool[Tensor, "batch pos"]
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
