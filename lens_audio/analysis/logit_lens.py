"""Predictions read from the middle of the model: the logit lens and the encoder lens."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import collecting, layer_names
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Positions, position_indices

Indices = Sequence[int] | Int[Tensor, " n"] | None


@torch.no_grad()
def logit_lens(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    tokens: Indices = None,
    positions: Positions = None,
) -> Float[Tensor, "batch layer pos token"]:
    """Log-probabilities read from the residual stream before each layer, and after the last.

    `ln_final` and the unembedding are applied to `resid_pre` of every layer and to `resid_post` of
    the last, so that layer has n_layers + 1 entries and the last is the model's own prediction.
    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).

    Args:
        tokens: vocabulary entries; all by default (156,032 a position for Qwen2-Audio-7B).
        positions: as in `hooks.patch`; all by default. Numbers are read in the order given.

    Raises:
        ValueError: for tokens or positions that do not exist, or as many positions as not every row
            has.
    """
    places = position_indices(positions, prompt).to(model.device)
    rows = torch.arange(len(prompt), device=model.device)[:, None]
    wanted = as_indices(tokens, model.cfg.d_vocab, "token")

    def log_probs(
        resid: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "batch place token"]:
        return model.logits_of(resid[rows, places]).float().log_softmax(-1)[..., wanted]

    n_layers = model.cfg.n_layers
    names = [*layer_names("hook_resid_pre", range(n_layers)), "blocks.-1.hook_resid_post"]
    with collecting(model, names, take=log_probs) as found:
        model(prompt, stop_at_layer=n_layers)
    return torch.stack(list(found.values()), dim=1)


@torch.no_grad()
def encoder_lens(
    model: HookedAudioTransformer, prompt: AudioPrompt, tokens: Indices = None
) -> Float[Tensor, "batch layer token"]:
    """Log-probabilities at the last position with the encoder's blocks from layer k on skipped.

    Entry k goes from the encoder's residual stream before layer k to its pool and last LayerNorm,
    then through projector and decoder; the last of the n_layers + 1 entries skips nothing.
    Source: Langedijk et al., "DecoderLens", arXiv 2310.03686.

    Raises:
        ValueError: for a prompt without audio, or tokens that do not exist.
    """
    if prompt.mel is None or prompt.mel_lengths is None:
        raise ValueError("the encoder lens needs a prompt with audio")
    wanted = as_indices(tokens, model.cfg.d_vocab, "token")
    encoder, lengths = model.audio_encoder, prompt.mel_lengths.to(model.device)
    blocks = layer_names("hook_resid_pre", range(encoder.cfg.n_layers))
    names = [f"audio_encoder.{name}" for name in (*blocks, "blocks.-1.hook_resid_post")]
    with collecting(model, names, take=torch.clone) as before:
        encoder(prompt.mel, lengths)
    log_probs = []
    for resid in before.values():
        encoded = encoder.from_layer(encoder.cfg.n_layers, resid, lengths)
        logits = model.run_with_hooks(
            prompt, fwd_hooks=[("audio_encoder.hook_out", _replace_by(encoded))], logits_to_keep=1
        )
        log_probs.append(logits[:, -1].float().log_softmax(-1)[:, wanted])
    return torch.stack(log_probs, dim=1)


def as_indices(chosen: Indices, n: int, what: str) -> Any:
    """Indices checked against their range; a slice of everything for None.

    Raises:
        ValueError: for an empty selection, or an index out of range.
    """
    if chosen is None:
        return slice(None)
    indices = torch.as_tensor(chosen).long().reshape(-1)
    if len(indices) == 0:
        raise ValueError(f"an empty selection of {what}s; leave it out to mean all")
    outside = indices[(indices < -n) | (indices >= n)]
    if len(outside):
        raise ValueError(f"{what} {int(outside[0])} does not exist; there are {n}")
    return indices


def _replace_by(value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda activation, hook: value
