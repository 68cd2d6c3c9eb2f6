"""How much attention each head pays to the audio, and to which moment of it.

For head h of layer l, query position T and audio positions A, the mass is
m[l, h] = sum over j in A of pattern[l, h, T, j] (Glazer, Aharon, Fetaya, arXiv 2603.06854).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import collecting
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Positions, check_pairs, is_one_position, position_indices


@torch.no_grad()
def audio_attention(
    model: HookedAudioTransformer, prompt: AudioPrompt, query: Positions = -1
) -> Float[Tensor, "batch layer head *query audio_token"]:
    """The attention that a position pays to each audio token: rows of `hook_pattern`, audio only.

    One forward. Each layer's row comes from `attn.hook_rot_q` at the query and `attn.hook_rot_k`
    and is all that is kept: memory grows with heads x positions, never with positions squared.
    Hooks set on the model act, but those on a layer's `hook_attn_scores` and `hook_pattern` show
    only in the layers after it.

    Args:
        prompt: one prompt or a padded batch.
        query: a position (negative: from the end), or "last", each row's last real one; or any
            other of docs/places.md, which adds a query dimension.

    Returns:
        Attention weights, float32 (or float64 for such a model). Audio tokens are in the order of
        `prompt.audio_positions(i)`; rows with fewer than the longest end in zeros.

    Raises:
        ValueError: for positions that do not exist or are padding in some row, or as many as not
            every row has.
    """
    hooks, attention = attention_hooks(model, prompt, query)
    with model.hooks(fwd_hooks=hooks):
        model(prompt, stop_at_layer=model.cfg.n_layers)
    return attention()


def attention_hooks(
    model: HookedAudioTransformer, prompt: AudioPrompt, query: Positions = -1
) -> tuple[list[tuple[str, Callable]], Callable[[], Tensor]]:
    """`audio_attention` of a forward that is run anyway: its hooks, and what it gives afterwards."""
    mask = prompt.attention_mask.to(model.device)
    queries = position_indices(query, prompt, takes_padding=False).to(
        mask.device
    )  # [#batch, query]
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    may_read = torch.arange(mask.shape[1], device=mask.device) <= queries[..., None]
    may_read = may_read & mask[:, None, :]  # [batch, query, key]
    places, is_audio = _audio_places(prompt.audio_mask.to(mask.device))
    kept: list[Tensor] = []

    def keep_query(rot_q: Float[Tensor, "batch pos head d_head"], hook: Any) -> None:
        kept.append(rot_q[rows, queries])

    def keep_row(rot_k: Float[Tensor, "batch pos kv_head d_head"], hook: Any) -> None:
        pattern = pattern_rows(kept.pop(), rot_k, may_read)
        index = places[:, None, None].expand(*pattern.shape[:3], -1)
        kept.append(pattern.gather(-1, index) * is_audio[:, None, None])

    hooks: list[tuple[str, Callable]] = []
    for layer in range(model.cfg.n_layers):
        hooks += [(f"blocks.{layer}.attn.hook_rot_q", keep_query)]
        hooks += [(f"blocks.{layer}.attn.hook_rot_k", keep_row)]

    def attention() -> Float[Tensor, "batch layer head *query audio_token"]:
        stacked = torch.stack([rows.to(mask.device) for rows in kept], dim=1)
        return stacked[:, :, :, 0] if is_one_position(query) else stacked

    return hooks, attention


@torch.no_grad()
def head_pattern(
    model: HookedAudioTransformer, prompt: AudioPrompt, layer: int, head: int
) -> Float[Tensor, "batch query key"]:
    """One head's whole attention pattern: every position's attention to every position.

    A forward that stops after the layer; nothing else is kept.

    Raises:
        ValueError: for a layer or head that does not exist.
    """
    ((layer, head),) = check_pairs([(layer, head)], model.cfg.n_layers, model.cfg.n_heads)
    name = f"blocks.{layer}.attn.hook_pattern"
    with collecting(model, [name], take=lambda pattern: pattern[:, head].clone()) as kept:
        model(prompt, stop_at_layer=layer + 1)
    return kept[name]


def audio_mass(
    attention: Float[Tensor, "*axes audio_token"],
) -> Float[Tensor, "*axes"]:
    """The share of each head's attention that falls on the audio, 0 to 1."""
    return attention.sum(-1)


def top_heads(mass: Float[Tensor, "layer head"], k: int) -> list[tuple[int, int]]:
    """The k (layer, head) pairs of highest value, highest first.

    Raises:
        ValueError: if there are not k heads.
    """
    n_layers, n_heads = mass.shape
    if not 1 <= k <= mass.numel():
        raise ValueError(
            f"cannot take {k} heads: this model has {n_layers} layers x {n_heads} heads = "
            f"{mass.numel()}"
        )
    best = mass.flatten().topk(k).indices.tolist()
    return [divmod(i, n_heads) for i in best]


FLOOR = 0.02  # of a head's mean audio mass: below it, it hardly reads


def heads_above(
    mass: Float[Tensor, "item layer head"], floor: float | int
) -> Bool[Tensor, "layer head"]:
    """Which heads have a mean audio mass over the items of at least this; of 0, all of them.

    Raises:
        ValueError: for a floor outside [0, 1), or above every head.
    """
    if not 0 <= floor < 1:
        raise ValueError(f"the floor of mean audio mass must lie between 0 and 1, not {floor}")
    mean = mass.mean(0)
    if not bool((mean >= floor).any()):
        raise ValueError(
            f"no head has a mean audio mass of {floor:g} or more over these items (the greatest is "
            f"{float(mean.max()):.3g}); give a lower floor"
        )
    return mean >= floor


def peak_time(
    attention: Float[Tensor, "*axes audio_token"], times: Float[Tensor, "audio_token 2"]
) -> Float[Tensor, "*axes"]:
    """The middle, in seconds, of the audio token that gets most attention.

    Args:
        times: start and end of each audio token, as `prompt.audio_times(i)` gives them.
    """
    return times.to(attention.device).mean(-1)[attention.argmax(-1)]


def entropy(attention: Float[Tensor, "*axes audio_token"]) -> Float[Tensor, "*axes"]:
    """Spread over the audio tokens, in bits: 0 for one token, log2(n) for all n alike.

    The attention on the audio is first divided by its mass; no mass gives 0.
    """
    share = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    return -torch.special.xlogy(share, share).sum(-1) / torch.log(torch.tensor(2.0))


def pattern_rows(
    q: Float[Tensor, "batch query head d_head"],
    k: Float[Tensor, "batch key kv_head d_head"],
    may_read: Bool[Tensor, "batch query key"],
) -> Float[Tensor, "batch head query key"]:
    """Rows of the attention pattern: softmax(q kᵀ / sqrt(d_head)), keys that may not be read at 0.

    In float32, or float64 for such queries.

    Args:
        q: rotated queries. k: rotated keys; several heads may share one (grouped-query attention).
        may_read: which keys each query reads; at least one.
    """
    # The heads that share a key stand in line as queries of it.
    batch, n_queries, n_heads, d_head = q.shape
    n_keys, kv_heads = k.shape[1:3]
    dtype = torch.promote_types(q.dtype, torch.float32)
    lined = (q.to(dtype) * d_head**-0.5).transpose(1, 2).reshape(batch, kv_heads, -1, d_head)
    scores = lined @ k.to(dtype).permute(0, 2, 3, 1)
    scores = scores.view(batch, n_heads, n_queries, n_keys)
    return scores.masked_fill(~may_read[:, None], -torch.inf).softmax(-1)


def _audio_places(
    audio_mask: Bool[Tensor, "batch pos"],
) -> tuple[Int[Tensor, "batch audio_token"], Bool[Tensor, "batch audio_token"]]:
    """Positions of the audio tokens, rows filled up with position 0, and which are not filler."""
    counts = audio_mask.sum(1)
    is_audio = torch.arange(int(counts.max()), device=audio_mask.device) < counts[:, None]
    places = torch.zeros_like(is_audio, dtype=torch.long)
    places[is_audio] = audio_mask.nonzero()[:, 1]
    return places, is_audio
