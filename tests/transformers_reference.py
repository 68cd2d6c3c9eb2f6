"""The activations of a transformers Qwen2-Audio under our hook names, by forward hooks on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from models import hf_inputs
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from lens_audio import AudioPrompt

Activations = dict[str, Tensor]


def run_reference(
    model: Qwen2AudioForConditionalGeneration, prompt: AudioPrompt
) -> tuple[Tensor, Activations]:
    """Logits, and every activation of the decoder and the encoder; the model must be eager."""
    with torch.no_grad(), recorded(model) as seen:
        logits = model(**hf_inputs(prompt)).logits
    acts = {"hook_embed": seen["model.language_model.layers.0:in"]}
    rotary = seen["model.language_model.rotary_emb:all"]
    for l in range(len(model.model.language_model.layers)):
        acts |= decoder_block(model, seen, l, rotary)
    acts |= norm(model.model.language_model.norm, seen, "model.language_model.norm", "ln_final")
    acts["unembed.hook_in"], acts["unembed.hook_out"] = seen["lm_head:in"], logits
    if prompt.mel is not None:
        acts |= encoder(model, seen, prompt)
    return logits, acts


@contextmanager
def recorded(model: nn.Module) -> Iterator[Activations]:
    """Inside, a dictionary fills with every submodule's input (`:in`) and output (`:out`)."""
    seen: Activations = {}

    def watch(name: str) -> object:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            first = args[0] if args else kwargs.get("hidden_states")
            seen[f"{name}:in"] = first
            seen[f"{name}:out"] = output[0] if isinstance(output, tuple) else output
            seen[f"{name}:all"] = output

        return hook

    handles = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def norm(module: nn.Module, seen: Activations, theirs: str, ours: str) -> Activations:
    """Scale from its definition; the normalised tensor is the module's output, weight undone."""
    x, out = seen[f"{theirs}:in"], seen[f"{theirs}:out"]
    if isinstance(module, nn.LayerNorm):
        scale = (x.var(-1, keepdim=True, unbiased=False) + module.eps).sqrt()
        return {f"{ours}.hook_scale": scale, f"{ours}.normalized_affine": out}
    scale = (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
    return {f"{ours}.hook_scale": scale, f"{ours}.normalized_affine": out}


def decoder_block(
    model: Qwen2AudioForConditionalGeneration,
    seen: Activations,
    l: int,
    rotary: tuple[Tensor, Tensor],
) -> Activations:
    layer = model.model.language_model.layers[l]
    theirs, ours = f"model.language_model.layers.{l}", f"blocks.{l}"
    d_head = layer.self_attn.head_dim

    def heads(name: str) -> Tensor:
        return seen[f"{theirs}.self_attn.{name}"].unflatten(-1, (-1, d_head))

    q, k, v = heads("q_proj:out"), heads("k_proj:out"), heads("v_proj:out")
    rot_q, rot_k = apply_rotary_pos_emb(q, k, *rotary, unsqueeze_dim=2)
    acts = {
        "hook_resid_pre": seen[f"{theirs}:in"],
        "attn.hook_q": q,
        "attn.hook_k": k,
        "attn.hook_v": v,
        "attn.hook_rot_q": rot_q,
        "attn.hook_rot_k": rot_k,
        "attn.hook_attn_scores": scores(rot_q, rot_k),
        "attn.hook_pattern": seen[f"{theirs}.self_attn:all"][1],
        "attn.hook_z": heads("o_proj:in"),
        "hook_attn_out": seen[f"{theirs}.self_attn.o_proj:out"],
        "hook_resid_mid": seen[f"{theirs}.post_attention_layernorm:in"],
        "mlp.hook_pre": seen[f"{theirs}.mlp.gate_proj:out"],
        "mlp.hook_pre_linear": seen[f"{theirs}.mlp.up_proj:out"],
        "mlp.hook_post": seen[f"{theirs}.mlp.down_proj:in"],
        "hook_mlp_out": seen[f"{theirs}.mlp:out"],
        "hook_resid_post": seen[f"{theirs}:out"],
    }
    acts |= norm(layer.input_layernorm, seen, f"{theirs}.input_layernorm", "ln1")
    acts |= norm(layer.post_attention_layernorm, seen, f"{theirs}.post_attention_layernorm", "ln2")
    return {f"{ours}.{name}": value for name, value in acts.items()}


def scores(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ / sqrt(d_head) without a mask, [batch, head, query, key]."""
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    return torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5


def encoder(
    model: Qwen2AudioForConditionalGeneration, seen: Activations, prompt: AudioPrompt
) -> Activations:
    tower = model.model.audio_tower
    gelu = nn.functional.gelu
    positions = tower.embed_positions.weight
    acts = {
        "audio_encoder.hook_mel": prompt.mel,
        "audio_encoder.hook_conv1": gelu(seen["model.audio_tower.conv1:out"]).mT,
        "audio_encoder.hook_conv2": gelu(seen["model.audio_tower.conv2:out"]).mT,
        "audio_encoder.hook_pos_embed": positions.expand(len(prompt.mel), -1, -1),
        "audio_encoder.hook_embed": seen["model.audio_tower.layers.0:in"],
        "audio_encoder.hook_pooled": seen["model.audio_tower.layer_norm:in"],
        "audio_encoder.hook_out": seen["model.audio_tower.layer_norm:out"],
        "audio_projector.hook_in": seen["model.multi_modal_projector:in"],
        "audio_projector.hook_out": seen["model.multi_modal_projector:out"],
    }
    acts |= norm(tower.layer_norm, seen, "model.audio_tower.layer_norm", "audio_encoder.ln_final")
    for l in range(len(tower.layers)):
        acts |= encoder_block(model, seen, l)
    return acts


def encoder_block(
    model: Qwen2AudioForConditionalGeneration, seen: Activations, l: int
) -> Activations:
    layer = model.model.audio_tower.layers[l]
    theirs, ours = f"model.audio_tower.layers.{l}", f"audio_encoder.blocks.{l}"
    d_head = layer.self_attn.head_dim

    def heads(name: str) -> Tensor:
        return seen[f"{theirs}.self_attn.{name}"].unflatten(-1, (-1, d_head))

    q, k, v = heads("q_proj:out"), heads("k_proj:out"), heads("v_proj:out")
    hidden = seen[f"{theirs}.fc1:out"]
    acts = {
        "hook_resid_pre": seen[f"{theirs}:in"],
        "attn.hook_q": q,
        "attn.hook_k": k,
        "attn.hook_v": v,
        "attn.hook_attn_scores": scores(q, k),
        "attn.hook_pattern": seen[f"{theirs}.self_attn:all"][1],
        "attn.hook_z": heads("out_proj:in"),
        "hook_attn_out": seen[f"{theirs}.self_attn.out_proj:out"],
        "hook_resid_mid": seen[f"{theirs}.final_layer_norm:in"],
        "mlp.hook_pre": hidden,
        "mlp.hook_post": nn.functional.gelu(hidden),
        "hook_mlp_out": seen[f"{theirs}.fc2:out"],
        "hook_resid_post": seen[f"{theirs}:out"],
    }
    acts |= norm(layer.self_attn_layer_norm, seen, f"{theirs}.self_attn_layer_norm", "ln1")
    acts |= norm(layer.final_layer_norm, seen, f"{theirs}.final_layer_norm", "ln2")
    return {f"{ours}.{name}": value for name, value in acts.items()}
