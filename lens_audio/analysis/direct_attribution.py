"""Direct logit attribution: what each head wrote toward an answer, by source, and what each MLP did."""

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import at_positions, collecting, layer_names
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Positions, position_indices


@torch.no_grad()
def head_attribution_by_source(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    direction: Float[Tensor, "*batch d_model"],
    position: Positions = -1,
) -> dict[str, Float[Tensor, "batch layer head"]]:
    """How far each head's write at one position goes along a direction, split by what it read.

    A head's write is the sum over the keys j of pattern[T, j] · v[j] W_O, so it splits exactly by key:
    "audio" over the audio positions and "text" over the rest. Both are divided by the scale of the
    final norm, so that with a logit difference's direction (from
    `model.tokens_to_residual_directions`) the sum over heads, of audio and text together, is the
    heads' part of that logit difference. Source: Elhage et al., A Mathematical Framework for
    Transformer Circuits (the OV circuit); the split by source is ours.

    Args:
        direction: [d_model], or one a row.
        position: the one whose prediction is attributed: a number, "last" (each row's last real
            one), or any other of docs/places.md that is one position a row.

    Raises:
        ValueError: for several positions, one that does not exist or is padding in some row, or a
            direction of another width.
    """
    places, direction = _checked(model, prompt, direction, position)
    is_audio = prompt.audio_mask.to(model.device)
    toward: dict[str, list[Tensor]] = {"audio": [], "text": []}
    layers = range(model.cfg.n_layers)
    v_names, pattern_names = (layer_names(f"attn.hook_{site}", layers) for site in ("v", "pattern"))

    def rows_of(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head key"]:
        return at_positions(pattern.transpose(1, 2), places).float()

    with (
        collecting(model, v_names) as values,
        collecting(model, pattern_names, take=rows_of) as per_key,
    ):
        resid = at_positions(model(prompt, stop_at_layer=model.cfg.n_layers), places).float()
    for block, v_name, pattern_name in zip(model.blocks, v_names, pattern_names, strict=True):
        attn, v = block.attn, values[v_name]
        v = v.repeat_interleave(model.cfg.n_heads // v.shape[2], dim=2).float()
        readout = einsum(
            attn.W_O.float(),
            torch.atleast_2d(direction),
            "head d_head m, batch m -> batch head d_head",
        )
        value = einsum(v, readout.expand(len(v), -1, -1), "b key h d, b h d -> b h key")
        for source, mask in (("audio", is_audio), ("text", ~is_audio)):
            toward[source].append((per_key[pattern_name] * value * mask[:, None]).sum(-1))
    scale = (resid.pow(2).mean(-1) + model.cfg.eps).sqrt()[:, None, None]
    return {source: torch.stack(parts, dim=1) / scale for source, parts in toward.items()}


@torch.no_grad()
def mlp_attribution(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    direction: Float[Tensor, "*batch d_model"],
    position: Positions = -1,
) -> Float[Tensor, "batch layer"]:
    """How far each MLP's write at one position goes along a direction, over the final norm's scale.

    With `head_attribution_by_source`, the embedding and the biases of the attention's output it
    makes up the whole logit difference. MLPs read what heads wrote: a head's effect through them
    counts here.

    Args:
        direction, position: as of `head_attribution_by_source`.

    Raises:
        ValueError: as `head_attribution_by_source`.
    """
    places, direction = _checked(model, prompt, direction, position)
    names = layer_names("hook_mlp_out", range(model.cfg.n_layers))
    with collecting(model, names, take=lambda out: at_positions(out, places).float()) as kept:
        resid = at_positions(model(prompt, stop_at_layer=model.cfg.n_layers), places).float()
    written = torch.stack([kept[name] for name in names], dim=1)
    scale = (resid.pow(2).mean(-1) + model.cfg.eps).sqrt()[:, None]
    return (written * torch.atleast_2d(direction)[:, None]).sum(-1) / scale


def _checked(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    direction: Float[Tensor, "*batch d_model"],
    position: Positions,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, "*batch d_model"]]:
    """Each row's position, and the direction where the model is."""
    places = position_indices(position, prompt, takes_padding=False)
    if places.shape[1] != 1:
        raise ValueError(
            f"one position a row is attributed; {position!r} are {places.shape[1]}: call it for each"
        )
    places = places[:, 0].expand(len(prompt))
    if direction.shape[-1] != model.cfg.d_model:
        raise ValueError(
            f"a direction of width {direction.shape[-1]}; d_model is {model.cfg.d_model}"
        )
    return places, direction.to(model.device).float()
