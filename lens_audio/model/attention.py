"""Multi-head attention with TransformerLens's hook points."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from lens_audio.config import BlockConfig
from lens_audio.model.attention_context import AttentionContext
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.kv_cache import KeyValueCacheEntry
from lens_audio.model.linear import Linear
from lens_audio.model.norm import RMSNorm
from lens_audio.model.rotary import apply_rotary
from lens_audio.model.shared_prefix import SHORT_CONTINUATION, SharedPrefix
from lens_audio.model.shown import ShownWeight, ShowsWeights, bias_or_zeros, shown_bias, store


class Attention(ShowsWeights):
    """softmax(q kᵀ / sqrt(d_head)) v, then `o_proj`.

    Where the config asks for log-n scaling it is part of `hook_rot_q`, so that scores are
    `hook_rot_q` times `hook_rot_k` over sqrt(d_head) in every family.

    Scores and pattern exist only while a hook is attached to one of them; otherwise the heads run
    through `scaled_dot_product_attention`. Grouped keys and values are never copied per head.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.cfg = cfg
        width, kv_width = cfg.n_heads * cfg.d_head, cfg.kv_heads * cfg.d_head
        self.q_proj = Linear(cfg.d_model, width, bias="q" in cfg.attn_bias)
        self.k_proj = Linear(cfg.d_model, kv_width, bias="k" in cfg.attn_bias)
        self.v_proj = Linear(cfg.d_model, kv_width, bias="v" in cfg.attn_bias)
        self.o_proj = Linear(width, cfg.d_model, bias="o" in cfg.attn_bias)

        if cfg.use_qk_norm:
            self.q_norm = RMSNorm(cfg, cfg.d_head)
            self.k_norm = RMSNorm(cfg, cfg.d_head)

        self.hook_q = HookPoint()  # [batch, pos, n_heads, d_head]
        self.hook_k = HookPoint()  # [batch, pos, kv_heads, d_head]
        self.hook_v = HookPoint()  # [batch, pos, kv_heads, d_head]
        if cfg.positional_embedding_type == "rotary":
            self.hook_rot_q = HookPoint()  # [batch, pos, n_heads, d_head]
            self.hook_rot_k = HookPoint()  # [batch, pos, kv_heads, d_head]
        self.hook_attn_scores = HookPoint()  # [batch, n_heads, query_pos, key_pos]
        self.hook_pattern = HookPoint()  # [batch, n_heads, query_pos, key_pos]
        self.hook_z = HookPoint()  # [batch, pos, n_heads, d_head]
        self.hook_result = HookPoint()  # [batch, pos, n_heads, d_model]

    def forward(
        self,
        query_input: Float[Tensor, "batch pos *head d_model"],
        key_input: Float[Tensor, "batch pos *kv_head d_model"],
        value_input: Float[Tensor, "batch pos *kv_head d_model"],
        context: AttentionContext | None = None,
        past_kv_cache_entry: KeyValueCacheEntry | SharedPrefix | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the heads write together; inputs with a head dimension feed each head its own."""
        context = context or AttentionContext.of(self.cfg, query_input)
        q = self.hook_q(project_to_heads(self.q_proj, query_input, self.cfg.n_heads))
        k = self.hook_k(self._keys_or_values(self.k_proj, key_input))
        v = self.hook_v(self._keys_or_values(self.v_proj, value_input))
        if self.cfg.use_qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if context.rotary is not None:
            q = apply_rotary(q, *context.rotary)
            q = self.hook_rot_q(q if context.query_scale is None else q * context.query_scale)
            k = self.hook_rot_k(apply_rotary(k, *context.rotary))
        hooked = self.hook_attn_scores.has_hooks() or self.hook_pattern.has_hooks()
        prefix = past_kv_cache_entry
        if isinstance(prefix, SharedPrefix) and not hooked and q.shape[1] <= SHORT_CONTINUATION:
            return self._output(self.hook_z(prefix.attend(q, k, v, context.mask)))
        if past_kv_cache_entry is not None:
            k, v = past_kv_cache_entry.append(k, v)
        z = self._z_from_pattern(q, k, v, context) if hooked else self._fused_z(q, k, v, context)
        return self._output(self.hook_z(z))

    @property
    def n_shown_keys(self) -> int:
        """Heads of `hook_k` and `hook_v`: one a group, or one a query head when ungrouped."""
        ungroup = self.cfg.ungroup_grouped_query_attention
        return self.cfg.n_heads if ungroup else self.cfg.kv_heads

    def _keys_or_values(
        self, linear: nn.Linear, x: Float[Tensor, "batch pos *head d_model"]
    ) -> Float[Tensor, "batch pos shown_head d_head"]:
        projected = project_to_heads(linear, x, self.cfg.kv_heads)
        groups = self.n_shown_keys // projected.shape[2]
        return projected if groups == 1 else projected.repeat_interleave(groups, dim=2)

    def _fused_z(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key kv_head d_head"],
        v: Float[Tensor, "batch key kv_head d_head"],
        context: AttentionContext,
    ) -> Float[Tensor, "batch query head d_head"]:
        if context.window is not None:
            return _z_in_windows(q, k, v, context.window, context.key_mask)
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=None if context.is_plain_causal else context.mask,
            is_causal=context.is_plain_causal,
            enable_gqa=k.shape[2] != q.shape[2],
        )
        if context.blind_queries is not None:
            z = z.masked_fill(context.blind_queries, 0)
        return z.transpose(1, 2)

    def _z_from_pattern(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key kv_head d_head"],
        v: Float[Tensor, "batch key kv_head d_head"],
        context: AttentionContext,
    ) -> Float[Tensor, "batch query head d_head"]:
        batch, n_queries, n_heads, d_head = q.shape
        n_keys, kv_heads = k.shape[1:3]
        # The heads that share a key stand in line as queries of it: one product, nothing repeated.
        queries = (q * d_head**-0.5).transpose(1, 2).reshape(batch, kv_heads, -1, d_head)
        scores = (queries @ k.permute(0, 2, 3, 1)).view(batch, n_heads, n_queries, n_keys)
        if context.mask is not None:
            scores += context.additive_mask.to(scores.dtype)
        scores = self.hook_attn_scores(scores)
        may_be_blind = context.blind_queries is not None or self.hook_attn_scores.has_hooks()
        pattern = softmax_or_zeros(scores) if may_be_blind else softmax(scores)
        pattern = self.hook_pattern(pattern.to(v.dtype)).to(v.dtype)
        z = pattern.reshape(batch, kv_heads, -1, n_keys) @ v.transpose(1, 2)
        return z.view(batch, n_heads, n_queries, d_head).transpose(1, 2)

    def _output(
        self, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        if not self.cfg.use_attn_result:
            return self.o_proj(z.flatten(2))
        result = self.hook_result(torch.einsum("bphd,hdm->bphm", z, self._output_by_head()))
        return result.sum(2) + bias_or_zeros(self.o_proj)

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        """The weights of each head's queries."""
        return self._per_head(self.q_proj.weight, "W_Q")

    @W_Q.setter
    def W_Q(self, value: Float[Tensor, "head d_model d_head"]) -> None:
        store(self.q_proj, "weight", value.transpose(1, 2).flatten(0, 1))

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        """The weights of each query head's keys."""
        return self._per_head(self.k_proj.weight, "W_K")

    @W_K.setter
    def W_K(self, value: Float[Tensor, "head d_model d_head"]) -> None:
        store(self.k_proj, "weight", self._of_groups(value, "W_K").transpose(1, 2).flatten(0, 1))

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        """The weights of each query head's values."""
        return self._per_head(self.v_proj.weight, "W_V")

    @W_V.setter
    def W_V(self, value: Float[Tensor, "head d_model d_head"]) -> None:
        store(self.v_proj, "weight", self._of_groups(value, "W_V").transpose(1, 2).flatten(0, 1))

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """The weights of what each head writes."""
        return ShownWeight.of(self._output_by_head())

    @W_O.setter
    def W_O(self, value: Float[Tensor, "head d_head d_model"]) -> None:
        store(self.o_proj, "weight", value.permute(2, 0, 1).flatten(1))

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        """The biases of each head's queries."""
        return self._bias_per_head(self.q_proj, "b_Q")

    @b_Q.setter
    def b_Q(self, value: Float[Tensor, "head d_head"]) -> None:
        store(self.q_proj, "bias", value.flatten())

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:
        """The biases of each query head's keys."""
        return self._bias_per_head(self.k_proj, "b_K")

    @b_K.setter
    def b_K(self, value: Float[Tensor, "head d_head"]) -> None:
        store(self.k_proj, "bias", self._of_groups(value, "b_K").flatten())

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:
        """The biases of each query head's values."""
        return self._bias_per_head(self.v_proj, "b_V")

    @b_V.setter
    def b_V(self, value: Float[Tensor, "head d_head"]) -> None:
        store(self.v_proj, "bias", self._of_groups(value, "b_V").flatten())

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """The bias of what all heads write together."""
        return shown_bias(self.o_proj, "b_O")

    @b_O.setter
    def b_O(self, value: Float[Tensor, " d_model"]) -> None:
        store(self.o_proj, "bias", value)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head (Elhage et al., A Mathematical Framework)."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_Kᵀ of every head (Elhage et al., A Mathematical Framework)."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    def _output_by_head(self) -> Float[Tensor, "head d_head d_model"]:
        return self.o_proj.weight.unflatten(1, (self.cfg.n_heads, -1)).permute(1, 2, 0)

    def _per_head(
        self, weight: Float[Tensor, "width d_model"], name: str
    ) -> Float[Tensor, "head d_model d_head"]:
        return self._repeat_groups(weight.unflatten(0, (-1, self.cfg.d_head)).transpose(1, 2), name)

    def _bias_per_head(self, linear: nn.Linear, name: str) -> Float[Tensor, "head d_head"]:
        return self._repeat_groups(
            shown_bias(linear, name).unflatten(0, (-1, self.cfg.d_head)), name
        )

    def _repeat_groups(
        self, x: Float[Tensor, "kv_head ..."], name: str
    ) -> Float[Tensor, "head ..."]:
        """As TransformerLens shows grouped weights: once for each query head."""
        groups = self.cfg.n_heads // x.shape[0]
        if groups == 1:
            return ShownWeight.of(x)
        return ShownWeight.of(
            x.repeat_interleave(groups, dim=0),
            f"{groups} query heads share one key-value head, so {name} is a copy that shows it to "
            f"each of them. Edit {name[-1].lower()}_proj, or assign a whole {name} with equal heads "
            "in each group",
        )

    def _of_groups(
        self, value: Float[Tensor, "head ..."], name: str
    ) -> Float[Tensor, "kv_head ..."]:
        """What `_repeat_groups` shows, once for each key-value head."""
        n_shared = self.cfg.n_heads // self.cfg.kv_heads
        if len(value) != self.cfg.n_heads:
            raise ValueError(f"{name} of {len(value)} heads; this model has {self.cfg.n_heads}")
        grouped = value.unflatten(0, (-1, n_shared))
        if not bool((grouped == grouped[:, :1]).all()):
            raise ValueError(
                f"{n_shared} query heads share one key-value head, so they must be equal in {name}"
            )
        return grouped[:, 0]


def softmax(scores: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch key"]:
    """Over the keys, in float32 at least."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def softmax_or_zeros(scores: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch key"]:
    """A softmax where a query that may read nothing reads nothing: no NaN, in no gradient either."""
    blind = scores.detach().amax(-1, keepdim=True) == -torch.inf
    if not torch.compiler.is_compiling() and not bool(blind.any()):
        return softmax(scores)
    return softmax(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)


def project_to_heads(
    linear: nn.Linear, x: Float[Tensor, "batch pos *head d_model"], n_heads: int
) -> Float[Tensor, "batch pos out_head d_head"]:
    """A projection split into heads; an input with a head dimension goes to its own head only.

    Such an input may have a multiple of `n_heads` heads, each group sharing one head's weights.
    """
    if x.ndim == 3:
        return linear(x).unflatten(-1, (n_heads, -1))
    weight, bias = (t.unflatten(0, (n_heads, -1)) for t in (linear.weight, bias_or_zeros(linear)))
    if x.shape[2] != n_heads:  # ungrouped: a copy for each query head
        groups = x.shape[2] // n_heads
        weight, bias = (t.repeat_interleave(groups, dim=0) for t in (weight, bias))
    return torch.einsum("bphm,hdm->bphd", x, weight) + bias


def _z_in_windows(
    q: Float[Tensor, "batch pos head d_head"],
    k: Float[Tensor, "batch pos head d_head"],
    v: Float[Tensor, "batch pos head d_head"],
    window: int,
    key_mask: Bool[Tensor, "batch pos"] | None,
) -> Float[Tensor, "batch pos head d_head"]:
    """Bidirectional attention inside each run of `window` positions; zero where no key is real."""
    batch, n_positions = q.shape[:2]
    missing = -n_positions % window
    if key_mask is None and missing:
        key_mask = q.new_ones(batch, n_positions, dtype=torch.bool)

    def runs(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, missing))
        return rearrange(x, "batch (n pos) head d -> (batch n) head pos d", pos=window)

    mask = blind = None
    if key_mask is not None:
        keys = rearrange(
            F.pad(key_mask, (0, missing)), "batch (n pos) -> (batch n) pos", pos=window
        )
        mask, blind = keys[:, None, None], ~keys.any(1)[:, None, None, None]
    z = F.scaled_dot_product_attention(runs(q), runs(k), runs(v), attn_mask=mask)
    z = z if blind is None else z.masked_fill(blind, 0)
    return rearrange(z, "(batch n) head pos d -> batch (n pos) head d", batch=batch)[
        :, :n_positions
    ]
