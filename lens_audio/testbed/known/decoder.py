"""The decoder over many questions that share a prefix, with what the losses need kept.

Equal to the whole model on each prompt alone: the prefix is run once a recording, and every
question attends to its recording's prefix and to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2DecoderLayer,
    Qwen2Model,
    apply_rotary_pos_emb,
)

from lens_audio.testbed.known.batches import Prefix, SceneBatch


@dataclass(frozen=True)
class Reading:
    """What the questions' positions read and wrote."""

    resid: list[Float[Tensor, "question pos d_model"]]  # after each block
    mass: Float[Tensor, "question layer head pos"]  # audio mass, as if no scores were lowered
    # The same of the prefix's text after the audio, of all layers but the last.
    prefix_mass: Float[Tensor, "clip layer_but_last head text"]


def read(
    decoder: Qwen2Model,
    prefix: Prefix,
    batch: SceneBatch,
    bias: float = 0.0,
    is_open: Bool[Tensor, "layer head"] | None = None,
    amp: bool = True,
) -> Reading:
    """Run all questions of a batch; matrix products in bfloat16 with `amp`, attention in float32.

    Args:
        bias: what scores of audio keys are lowered by, but for the open heads at the last two
            positions of a question.
    """
    sizes, n_heads = decoder.config, decoder.config.num_attention_heads
    n_clips, n_questions = len(batch.audio), len(batch.tokens)
    shared, width = len(prefix.tokens), batch.tokens.shape[1]
    before = decoder.embed_tokens(prefix.tokens)[None].repeat(n_clips, 1, 1)
    before[:, prefix.audio] = batch.audio
    after = decoder.embed_tokens(batch.tokens)
    cos, sin = decoder.rotary_emb(before, torch.arange(shared + width)[None])
    causal = [_causal(0, shared), _causal(shared, width)]
    text = slice(prefix.audio.stop, shared)
    if is_open is None:
        is_open = torch.zeros(sizes.num_hidden_layers, n_heads, dtype=torch.bool)
    lowered = _lowered(batch, bias, is_open) if bias else None
    resid, mass, prefix_mass = [], [], []

    def heads(layer: Qwen2DecoderLayer, x: Tensor, places: slice) -> tuple[Tensor, Tensor, Tensor]:
        attn, normed = layer.self_attn, layer.input_layernorm(x)
        with _autocast(amp):
            qkv = (f(normed).float() for f in (attn.q_proj, attn.k_proj, attn.v_proj))
            q, k, v = (x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in qkv)
        q, k = apply_rotary_pos_emb(q, k, cos[:, places], sin[:, places])
        return q * sizes.hidden_size**-0.5 * n_heads**0.5, k, v

    for n, layer in enumerate(decoder.layers):
        assert isinstance(layer, Qwen2DecoderLayer)
        q0, k0, v0 = heads(layer, before, slice(0, shared))
        q1, k1, v1 = heads(layer, after, slice(shared, None))
        each = n_questions // n_clips
        k_of, v_of = (x.repeat_interleave(each, 0) for x in (k0, v0))
        scores = torch.cat([q1 @ k_of.mT, q1 @ k1.mT], -1) + causal[1]
        pattern = scores.softmax(-1)
        mass.append(pattern[..., prefix.audio].sum(-1))
        if lowered is not None:
            pattern = _pattern(scores, prefix.audio, lowered[:, n])
        z = pattern[..., :shared] @ v_of + pattern[..., shared:] @ v1
        after = _with_rest(layer, after, z, amp)
        resid.append(after)
        if n == len(decoder.layers) - 1:
            break
        scores = q0 @ k0.mT + causal[0]
        pattern = scores.softmax(-1)
        prefix_mass.append(pattern[:, :, text, prefix.audio].sum(-1))
        if lowered is not None:
            closed = torch.zeros(shared, 1)
            closed[text] = bias
            pattern = _pattern(scores, prefix.audio, closed)
        before = _with_rest(layer, before, pattern @ v0, amp)
    return Reading(resid, torch.stack(mass, 1), torch.stack(prefix_mass, 1))


def _with_rest(
    layer: Qwen2DecoderLayer, x: Tensor, z: Float[Tensor, "batch head pos d_head"], amp: bool
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after a layer, of that before it and what its heads have read."""
    with _autocast(amp):
        x = x + layer.self_attn.o_proj(z.transpose(1, 2).flatten(2)).float()
        return x + layer.mlp(layer.post_attention_layernorm(x)).float()


def _pattern(
    scores: Float[Tensor, "*batch query key"],
    audio: slice,
    lowered: Float[Tensor, "... query 1"],
) -> Float[Tensor, "*batch query key"]:
    """The pattern of scores that are lowered at audio keys."""
    kept = scores[..., audio] - lowered
    return torch.cat([scores[..., : audio.start], kept, scores[..., audio.stop :]], -1).softmax(-1)


def _lowered(
    batch: SceneBatch, bias: float, is_open: Bool[Tensor, "layer head"]
) -> Float[Tensor, "question layer head pos 1"]:
    """By how much each query's scores of audio keys are lowered."""
    n, width = batch.tokens.shape
    lowered = torch.full((n, *is_open.shape, width, 1), bias)
    rows = torch.arange(n)
    for place in (batch.last, batch.last + 1):
        lowered[rows, :, :, place, 0] = bias * (~is_open).float()
    return lowered


def _causal(past: int, width: int) -> Float[Tensor, "query key"]:
    """0 where a query may attend, -inf after it; the `past` keys are seen by all."""
    later = torch.full((width, width), -torch.inf).triu(1)
    return torch.cat([torch.zeros(width, past), later], 1)


def _autocast(amp: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=amp)


def last_of(
    x: Float[Tensor, "question pos d_model"], places: Int[Tensor, " question"]
) -> Float[Tensor, "question d_model"]:
    """Of each question the vector at its place."""
    return x[torch.arange(len(x)), places]
