"""Methods that rank heads by how much they read the audio, each an entry of `METHODS`.

A pair is two items that ask one question of two recordings, clean and corrupted, whose answers
differ. The metric of those that patch is logit(clean answer) - logit(corrupted answer), of the
answers' first tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.analysis.attention import FLOOR, audio_attention, audio_mass
from lens_audio.analysis.circuits import edges, pairs_of_items
from lens_audio.analysis.direct_attribution import head_attribution_by_source
from lens_audio.analysis.listening import measure
from lens_audio.analysis.metrics import Metric, logit_diff
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import AudioQAItem, Pair
from lens_audio.data.batches import batches, pair_batches
from lens_audio.data.knock_out import right_answers_without
from lens_audio.sites import every_head
from lens_audio.stats import pearson

Pairs = Sequence[tuple[AudioQAItem, AudioQAItem]]  # (clean, corrupted)
ByPair = Float[Tensor, "pair layer head"]  # the mean over pairs ranks the heads
OnPairs = Callable[[Int[Tensor, " some"]], Float[Tensor, "layer head"]]  # of pairs by their number
EdgesOnPairs = Callable[[Int[Tensor, " some"]], Float[Tensor, "layer head input"]]
Scores = Tensor | OnPairs | EdgesOnPairs

BATCH_SIZE = 16
STEPS = 5  # of integrated gradients
INPUTS = ("k", "v")  # of a head, that edges from the audio are scored into
CORRELATION, FLOORED, FLOOR_ALONE = "correlation", "correlation above a floor", "floor of mass"


@dataclass(frozen=True)
class Method:
    """A way to rank heads, and what it costs.

    Attributes:
        function: from (model, pairs) to scores, which are [pair, layer, head], whose mean over
            pairs ranks the heads; or a function that gives [layer, head] for any pairs by their
            numbers; or [layer, head] for all pairs together, which leaves no interval over pairs.
        forwards: how many forwards it runs for a pair, of the number of heads. A run that begins at
            a later layer or over cached keys and values is one too, and so is the prefix that many
            runs share; a backward is two. None is not told.
        absolute: whether heads are ranked by the size of their score, whatever its sign.
        of_edges: whether the scores have a last axis more, of the edges from the audio into a head's
            keys and into its values. Edges are ranked by size, heads by the sum of both sizes.
    """

    function: Callable[[HookedAudioTransformer, Pairs], Scores]
    forwards: Callable[[int], int] | None = None
    absolute: bool = False
    of_edges: bool = False


def correlation(model: HookedAudioTransformer, pairs: Pairs, floor: float = 0.0) -> OnPairs:
    """Pearson r of a head's audio mass with right answers, over the items of both sides.

    Heads whose mean mass is below the floor have none. Glazer, Aharon, Fetaya, arXiv 2603.06854.
    """
    found = measure(model, _items(pairs), batch_size=BATCH_SIZE, verbose=False)
    mass, correct = found.mass.unflatten(0, (-1, 2)), found.correct.unflatten(0, (-1, 2))

    def on_pairs(some: Int[Tensor, " some"]) -> Float[Tensor, "layer head"]:
        of_items = mass[some].flatten(0, 1)
        r = pearson(of_items.flatten(1), correct[some].flatten()).view(mass.shape[2:])
        return r.masked_fill(of_items.mean(0) < floor, torch.nan)

    return on_pairs


@torch.no_grad()
def mean_mass(model: HookedAudioTransformer, pairs: Pairs) -> ByPair:
    """A head's audio mass at the last position, the mean of a pair's two items."""
    prompts = batches(model, _items(pairs), BATCH_SIZE, verbose=False)
    masses = [audio_mass(audio_attention(model, prompt)).cpu() for _, prompt in prompts]
    return torch.cat(masses).unflatten(0, (-1, 2)).mean(1)


def above_floor(model: HookedAudioTransformer, pairs: Pairs) -> OnPairs:
    """1 for a head whose mean mass reaches the floor, else 0: what the floor finds by itself."""
    mass = mean_mass(model, pairs)
    return lambda some: (mass[some].mean(0) >= FLOOR).float()


def knock_out(model: HookedAudioTransformer, pairs: Pairs) -> ByPair:
    """How far the clean answer's probability falls when text may not attend to the audio in a head."""
    heads = _heads(model)
    probs = _right_probs(model, pairs, [[], *([head] for head in heads)])
    return _by_head(model, probs[:1] - probs[1:])


def only_this_head(model: HookedAudioTransformer, pairs: Pairs) -> ByPair:
    """How far the clean answer's probability rises from all heads deaf to all but one."""
    heads = _heads(model)
    all_but = [[other for other in heads if other != head] for head in heads]
    probs = _right_probs(model, pairs, [heads, *all_but])
    return _by_head(model, probs[1:] - probs[:1])


def patched_z(
    model: HookedAudioTransformer, pairs: Pairs, direction: str, positions: str
) -> ByPair:
    """How far patching a head's z moves the metric: `analysis.patching.sweep`."""
    patched = partial(
        sweep, site="z", heads="each", positions=positions, direction=direction, verbose=False
    )
    return _effects(model, pairs, patched)


def attribution(model: HookedAudioTransformer, pairs: Pairs, steps: int = 1) -> ByPair:
    """The same to first order, summed over positions: `analysis.attribution.attribute`.

    With more steps, gradients integrated from corrupted to clean embeddings.
    """

    def of_pair(model: HookedAudioTransformer, pair: Pair, metric: Metric) -> PatchingResult:
        return attribute(model, pair, metric=metric, sites="z", steps=steps, path="inputs")["z"]

    return _effects(model, pairs, of_pair)


def path_to_logits(model: HookedAudioTransformer, pairs: Pairs) -> ByPair:
    """How far the paths from a head straight to the logits move the metric: `path_patch`."""
    return _effects(model, pairs, partial(path_patch, verbose=False))


def direct(model: HookedAudioTransformer, pairs: Pairs, of_text: bool = True) -> ByPair:
    """What a head writes toward the clean answer on the clean recording, in logits.

    Without what it reads from text, what it writes from the audio alone: `direct_attribution`.
    """
    found = []
    for both, right, wrong in pair_batches(model, pairs, BATCH_SIZE):
        toward = model.tokens_to_residual_directions(torch.stack([right, wrong]))
        parts = head_attribution_by_source(model, both.clean, toward[0] - toward[1])
        found.append((parts["audio"] + parts["text"] if of_text else parts["audio"]).cpu())
    return torch.cat(found)


def edges_of_audio(model: HookedAudioTransformer, pairs: Pairs, method: str) -> EdgesOnPairs:
    """The edges from the audio into a head's keys and into its values: `analysis.circuits.edges`.

    They leave the embeddings at audio positions. Heads that share keys and values have equal scores.
    """
    cfg = model.cfg
    readers = [f"L{layer}KV{head} @audio" for layer, head in every_head(cfg.n_layers, cfg.kv_heads)]
    graph = edges(
        model, pairs_of_items(model, pairs, BATCH_SIZE), method=method, steps=STEPS,
        senders="embed @audio", receivers=readers, by_group=True, by_example=True,
    )  # fmt: skip
    assert graph.by_example is not None
    by_pair = rearrange(
        graph.by_example[:, graph.kept],
        "pair (layer input head) -> pair layer head input",
        input=len(INPUTS),
        head=cfg.kv_heads,
    )
    by_pair = by_pair.repeat_interleave(cfg.n_heads // cfg.kv_heads, dim=2)
    return lambda some: by_pair[some].mean(0)


def _run_a_head(n_heads: int) -> int:
    """Forwards: one a head, and two that all of them share."""
    return n_heads + 2


def _patched(direction: str, positions: str) -> Method:
    return Method(
        partial(patched_z, direction=direction, positions=positions), _run_a_head, absolute=True
    )


def _edges(method: str, forwards: Callable[[int], int]) -> Method:
    return Method(partial(edges_of_audio, method=method), forwards, of_edges=True)


# Effects are ranked by size: what a head writes depends on the sound also where it speaks against
# the answer. By loss of the right answer readers are known, mass has no sign, and the paper takes
# the highest r: those are ranked as they are.
METHODS: dict[str, Method] = {
    # `measure` runs an item twice: for attention, and for the answer.
    CORRELATION: Method(correlation, lambda n_heads: 4),
    FLOORED: Method(partial(correlation, floor=FLOOR), lambda n_heads: 4),
    FLOOR_ALONE: Method(above_floor, lambda n_heads: 2),
    "mean mass": Method(mean_mass, lambda n_heads: 2),
    "knock-out": Method(knock_out, _run_a_head),
    "only this head": Method(only_this_head, _run_a_head),
    "denoise z (last)": _patched("denoise", "last"),
    "denoise z (all)": _patched("denoise", "all"),
    "noise z (last)": _patched("noise", "last"),
    "noise z (all)": _patched("noise", "all"),
    "attribution": Method(attribution, lambda n_heads: 4, absolute=True),
    # Both ends of the way, and a forward and a backward a step.
    "integrated gradients": Method(
        partial(attribution, steps=STEPS), lambda n_heads: 2 + 3 * STEPS, absolute=True
    ),
    "path to logits": Method(path_to_logits, _run_a_head, absolute=True),
    "direct attribution": Method(direct, lambda n_heads: 1, absolute=True),
    "direct attribution of audio": Method(
        partial(direct, of_text=False), lambda n_heads: 1, absolute=True
    ),
    "edges from audio (EAP)": _edges("eap", lambda n_heads: 4),
    "edges from audio (EAP-IG)": _edges("eap-ig-inputs", lambda n_heads: 2 + 3 * STEPS),
    "edges from audio (EAP-IG activations)": _edges(
        "eap-ig-activations", lambda n_heads: 2 + 3 * STEPS
    ),
    # Into the keys, and into the values, of each head.
    "edges from audio (exact)": _edges("exact", lambda n_heads: 2 * n_heads + 2),
}


def _items(pairs: Pairs) -> list[AudioQAItem]:
    """Clean and corrupted in turn."""
    return [item for both in pairs for item in both]


def _heads(model: HookedAudioTransformer) -> list[tuple[int, int]]:
    return every_head(model.cfg.n_layers, model.cfg.n_heads)


def _right_probs(
    model: HookedAudioTransformer, pairs: Pairs, cuts: Sequence[Sequence[tuple[int, int]]]
) -> Float[Tensor, "cut pair"]:
    """The clean answer's probability without each set of heads."""
    clean = [both[0] for both in pairs]
    return right_answers_without(model, clean, cuts, batch_size=BATCH_SIZE, verbose=False)[1]


def _by_head(model: HookedAudioTransformer, scores: Float[Tensor, "cell pair"]) -> ByPair:
    return scores.T.unflatten(1, (model.cfg.n_layers, model.cfg.n_heads))


def _effects(
    model: HookedAudioTransformer, pairs: Pairs, patched: Callable[..., PatchingResult]
) -> ByPair:
    """By how much a patch of each head moves the metric of each pair, summed over positions."""
    found = []
    for both, right, wrong in pair_batches(model, pairs, BATCH_SIZE):
        result = patched(model, both, metric=logit_diff(right, wrong))
        effects = result.values[0] - result.base[0]
        found.append(effects.sum(1) if "position" in result.axes else effects)
    return torch.cat(found, dim=-1).movedim(-1, 0)
