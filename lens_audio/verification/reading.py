"""What is compared of a model: the residual streams, the encoder's output, logits, greedy tokens.

Our model and transformers' are read under the same names, those of our hook points, and at real
positions only: what stands at padding is nobody's answer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.checkpoints.family import InTransformers
from lens_audio.config import AudioModelConfig
from lens_audio.inputs import AudioPrompt

LOGITS = "logits"
ENCODER_OUT, PROJECTOR_OUT = "audio_encoder.hook_out", "audio_projector.hook_out"
Reading = dict[str, Tensor]  # [real position, width] by place, on the CPU, in the order of the flow


@dataclass(frozen=True)
class Generated:
    """Greedy tokens, and the logits that each was chosen by."""

    tokens: Int[Tensor, "batch new"]
    logits: Float[Tensor, "batch new d_vocab"]


def places(cfg: AudioModelConfig) -> list[str]:
    """The names of what is compared, in the order in which a forward computes it."""
    encoder = [f"audio_encoder.blocks.{l}.hook_resid_post" for l in range(cfg.audio.n_layers)]
    decoder = [f"blocks.{l}.hook_resid_post" for l in range(cfg.n_layers)]
    return [*encoder, ENCODER_OUT, PROJECTOR_OUT, *decoder, LOGITS]


@torch.no_grad()
def read_ours(model: HookedAudioTransformer, prompt: AudioPrompt) -> Reading:
    """One forward of our model."""
    wanted = places(model.cfg)
    logits, cache = model.run_with_cache(prompt, names_filter=lambda name: name in wanted)
    seen = {name: cache[name] for name in wanted if name != LOGITS} | {LOGITS: logits}
    return {name: at_real_positions(name, seen[name], prompt) for name in wanted}


@torch.no_grad()
def read_transformers(hf_model: Any, parts: InTransformers, prompt: AudioPrompt) -> Reading:
    """One forward of a transformers model."""
    found: Reading = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda out: found.update({name: at_real_positions(name, out, prompt)})

    watched = {ENCODER_OUT: parts.encoder_out, PROJECTOR_OUT: parts.projector}
    for room, path in (("audio_encoder.", parts.encoder_blocks), ("", f"{parts.decoder}.layers")):
        for l in range(len(hf_model.get_submodule(path))):
            watched[f"{room}blocks.{l}.hook_resid_post"] = f"{path}.{l}"
    with outputs_to(hf_model, {path: keep(name) for name, path in watched.items()}):
        mask = prompt.attention_mask.long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = hf_model(
            **transformers_inputs(prompt), position_ids=positions, use_cache=False
        ).logits
    keep(LOGITS)(logits)
    return found


def generate_ours(model: HookedAudioTransformer, prompt: AudioPrompt, n_tokens: int) -> Generated:
    """Greedy tokens of our model, none of which ends the answer."""
    tokens, cache = model.generate(
        prompt,
        n_tokens,
        stop_at_eos=False,
        return_type="tokens",
        return_cache=True,
        names_filter="unembed.hook_out",
        verbose=False,
    )
    return Generated(tokens.cpu(), cache["unembed.hook_out"][:, -n_tokens:].cpu())


def generate_transformers(hf_model: Any, prompt: AudioPrompt, n_tokens: int) -> Generated:
    """Greedy tokens of a transformers model, whatever its generation config says."""
    hf_model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=n_tokens,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    out = hf_model.generate(**transformers_inputs(prompt))
    return Generated(
        out.sequences[:, prompt.tokens.shape[1] :].cpu(), torch.stack(out.logits, dim=1).cpu()
    )


def transformers_inputs(prompt: AudioPrompt) -> dict[str, Tensor]:
    """A prompt with audio as a transformers model takes it."""
    assert prompt.mel is not None
    assert prompt.mel_lengths is not None
    inputs = {
        "input_ids": prompt.tokens,
        "attention_mask": prompt.attention_mask.long(),
        "input_features": prompt.mel,
    }
    if prompt.parts.mel_mask is not None:
        frames = torch.arange(prompt.mel.shape[2], device=prompt.mel.device)
        inputs[prompt.parts.mel_mask] = (frames < prompt.mel_lengths[:, None]).long()
    return inputs


def at_real_positions(
    name: str, x: Float[Tensor, "*row pos width"], prompt: AudioPrompt
) -> Float[Tensor, "real width"]:
    """What stands at tokens of the prompt, or at frames or tokens of its clips, on the CPU.

    transformers' encoders that read a clip in chunks hold no other frames: theirs is as it is.
    """
    if x.ndim == 2:
        return x.cpu()
    assert prompt.mel_lengths is not None
    if name in (ENCODER_OUT, PROJECTOR_OUT):
        lengths = prompt.timing.n_tokens(prompt.mel_lengths)
    elif name.startswith("audio_encoder."):
        lengths = prompt.timing.n_frames(prompt.mel_lengths)
    else:
        return x[prompt.attention_mask.to(x.device)].cpu()
    is_real = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
    return x[is_real].cpu()


@contextmanager
def outputs_to(model: nn.Module, takers: dict[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Inside, what a module gives out is handed to its taker, by the module's path."""

    def hook(take: Callable[[Tensor], None]) -> Callable[..., None]:
        return lambda module, args, out: take(out[0] if isinstance(out, tuple) else out)

    handles = [
        model.get_submodule(path).register_forward_hook(hook(take)) for path, take in takers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
