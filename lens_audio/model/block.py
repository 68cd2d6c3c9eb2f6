"""One pre-norm transformer block, of the decoder and of the audio encoder alike."""

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from lens_audio.config import BlockConfig
from lens_audio.model.attention import Attention
from lens_audio.model.attention_context import AttentionContext
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.kv_cache import KeyValueCacheEntry
from lens_audio.model.mlp import MLP, GatedMLP
from lens_audio.model.norm import make_norm
from lens_audio.model.shared_prefix import SharedPrefix


class TransformerBlock(nn.Module):
    """resid_mid = resid_pre + attn(ln1(resid_pre)); resid_post = resid_mid + mlp(ln2(resid_mid))."""

    hook_out_is_single_residual_stream = True  # TransformerLens's logit_lens asks

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.ln1 = make_norm(cfg)
        self.attn = Attention(cfg)
        self.ln2 = make_norm(cfg)
        self.mlp = GatedMLP(cfg) if cfg.gated_mlp else MLP(cfg)

        self.hook_resid_pre = HookPoint()  # [batch, pos, d_model]
        self.hook_attn_in = HookPoint()  # [batch, pos, n_heads, d_model]
        self.hook_q_input = HookPoint()  # [batch, pos, n_heads, d_model]
        self.hook_k_input = HookPoint()  # [batch, pos, kv_heads, d_model]
        self.hook_v_input = HookPoint()  # [batch, pos, kv_heads, d_model]
        self.hook_attn_out = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_mid = HookPoint()  # [batch, pos, d_model]
        self.hook_mlp_in = HookPoint()  # [batch, pos, d_model]
        self.hook_mlp_out = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_post = HookPoint()  # [batch, pos, d_model]

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        context: AttentionContext | None = None,
        past_kv_cache_entry: KeyValueCacheEntry | SharedPrefix | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after the block, of that before it."""
        context = context or AttentionContext.of(self.cfg, resid_pre)
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_inputs = self._attn_inputs(resid_pre)
        attn_out = self.hook_attn_out(self.attn(*attn_inputs, context, past_kv_cache_entry))
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        mlp_in = self.hook_mlp_in(resid_mid.clone()) if self.cfg.use_hook_mlp_in else resid_mid
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mlp_in)))
        resid_post = resid_mid + mlp_out
        if resid_post.dtype == torch.float16 and self.cfg.attention_dir == "bidirectional":
            # transformers clamps each encoder layer in float16, where large activations overflow.
            limit = torch.finfo(torch.float16).max - 1000
            resid_post = resid_post.clamp(-limit, limit)
        return self.hook_resid_post(resid_post)

    def _attn_inputs(self, resid_pre: Float[Tensor, "batch pos d_model"]) -> tuple[Tensor, ...]:
        """Normalised inputs of q, k and v: one tensor, or one a head under TransformerLens's flags."""
        if self.cfg.use_split_qkv_input:
            fork = resid_pre.unsqueeze(2)
            forks = (
                self.hook_q_input(fork.repeat(1, 1, self.cfg.n_heads, 1)),
                self.hook_k_input(fork.repeat(1, 1, self.attn.n_shown_keys, 1)),
                self.hook_v_input(fork.repeat(1, 1, self.attn.n_shown_keys, 1)),
            )
            return tuple(self.ln1(x) for x in forks)
        if self.cfg.use_attn_in:
            fork = resid_pre.unsqueeze(2).repeat(1, 1, self.cfg.n_heads, 1)
            return (self.ln1(self.hook_attn_in(fork)),) * 3
        return (self.ln1(resid_pre),) * 3
