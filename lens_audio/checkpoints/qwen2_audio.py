"""The Qwen2-Audio family (R1-AQA included): its tensors' names, theirs to ours."""

import re
from typing import Any

import torch
from transformers import Qwen2AudioForConditionalGeneration

ARCHITECTURE = "Qwen2AudioForConditionalGeneration"

# In memory, transformers >= 5.13 nests everything but the head under `model.`; the hub's files
# have the head under `language_model.`.
OLD_PREFIXES = {
    r"^model\.(?=audio_tower|multi_modal_projector|language_model)": "",
    r"^language_model\.model\.": "language_model.",
    r"^language_model\.lm_head\.": "lm_head.",
}

RENAMED = {
    r"^language_model\.embed_tokens\.weight$": "embed.W_E",
    r"^language_model\.norm\.weight$": "ln_final.w",
    r"^lm_head\.weight$": "unembed.lm_head.weight",
    r"^language_model\.layers\.(\d+)\.input_layernorm\.weight$": r"blocks.\1.ln1.w",
    r"^language_model\.layers\.(\d+)\.post_attention_layernorm\.weight$": r"blocks.\1.ln2.w",
    r"^language_model\.layers\.(\d+)\.self_attn\.": r"blocks.\1.attn.",
    r"^language_model\.layers\.(\d+)\.mlp\.": r"blocks.\1.mlp.",
    r"^audio_tower\.(conv[12])\.": r"audio_encoder.\1.",
    r"^audio_tower\.embed_positions\.weight$": "audio_encoder.W_pos",
    r"^audio_tower\.layer_norm\.weight$": "audio_encoder.ln_final.w",
    r"^audio_tower\.layer_norm\.bias$": "audio_encoder.ln_final.b",
    r"^audio_tower\.layers\.(\d+)\.self_attn_layer_norm\.weight$": r"audio_encoder.blocks.\1.ln1.w",
    r"^audio_tower\.layers\.(\d+)\.self_attn_layer_norm\.bias$": r"audio_encoder.blocks.\1.ln1.b",
    r"^audio_tower\.layers\.(\d+)\.final_layer_norm\.weight$": r"audio_encoder.blocks.\1.ln2.w",
    r"^audio_tower\.layers\.(\d+)\.final_layer_norm\.bias$": r"audio_encoder.blocks.\1.ln2.b",
    r"^audio_tower\.layers\.(\d+)\.self_attn\.out_proj\.": r"audio_encoder.blocks.\1.attn.o_proj.",
    r"^audio_tower\.layers\.(\d+)\.self_attn\.": r"audio_encoder.blocks.\1.attn.",
    r"^audio_tower\.layers\.(\d+)\.fc1\.": r"audio_encoder.blocks.\1.mlp.up_proj.",
    r"^audio_tower\.layers\.(\d+)\.fc2\.": r"audio_encoder.blocks.\1.mlp.down_proj.",
    r"^multi_modal_projector\.linear\.": "audio_projector.linear.",
}


def our_name(name: str) -> str | None:
    """Our name of a checkpoint's tensor, in the hub's or the in-memory layout; None if unknown."""
    for pattern, replacement in OLD_PREFIXES.items():
        name = re.sub(pattern, replacement, name)
    for pattern, replacement in RENAMED.items():
        renamed, n = re.subn(pattern, replacement, name)
        if n:
            return renamed
    return None


def hub_names(config: Any) -> dict[str, str]:
    """Our names to the hub's, of a model of this transformers config (for messages)."""
    with torch.device("meta"):
        in_memory = Qwen2AudioForConditionalGeneration(config).state_dict()
    names = {}
    for name in in_memory:
        hub = re.sub(r"^model\.language_model\.", "model.language_model.model.", name)
        hub = re.sub(r"^lm_head\.", "language_model.lm_head.", hub)
        names[str(our_name(name))] = hub.removeprefix("model.")
    return names
