"""Which activations a hook function touches: site, layers, heads, positions."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from lens_audio.model.hooked_root import count_from_end

Hook = tuple[str | Callable[[str], bool], Callable[..., Any]]
Heads = int | Iterable[int] | Iterable[tuple[int, int]] | None
Layers = int | Iterable[int] | None
Positions = str | int | slice | Sequence[int] | Tensor | None

# Short names of sites in a block; `audio_encoder.` in front means the encoder's.
SITES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "attn_scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "z": "attn.hook_z",
    "result": "attn.hook_result",
    "mlp_pre": "mlp.hook_pre",
    "mlp_pre_linear": "mlp.hook_pre_linear",
    "mlp_post": "mlp.hook_post",
}
ROOT_SITES = {
    "embed": "hook_embed",
    "audio_embed": "hook_audio_embed",
    "audio_encoder.embed": "audio_encoder.hook_embed",
    "audio_encoder.pooled": "audio_encoder.hook_pooled",
    "audio_encoder.out": "audio_encoder.hook_out",
}
HEAD_SITES = ("hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k", "hook_z", "hook_result")
PATTERN_SITES = ("hook_attn_scores", "hook_pattern")
GROUPS = ("all", "last", "audio", "text", "generated")


def hook_names(site: str, layers: Layers = None) -> list[str | Callable[[str], bool]]:
    """The hook names of a site in some layers; without layers, one function that selects all.

    Args:
        site: a short name ("z", "audio_encoder.resid_post"), or a hook name in full.
        layers: one layer or several; negative ones count from the last.

    Raises:
        ValueError: for an unknown site, no layers, or layers for a site outside the blocks.
    """
    if site in ROOT_SITES or "hook_" in site:
        if layers is not None:
            raise ValueError(f"{site!r} is one hook point, so it takes no layer")
        return [ROOT_SITES.get(site, site)]
    prefix, _, short = site.rpartition(".")
    if short not in SITES or prefix not in ("", "audio_encoder"):
        near = difflib.get_close_matches(site, [*SITES, *ROOT_SITES], n=3)
        raise ValueError(
            f"no site is called {site!r}; "
            + (f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(SITES)}")
        )
    prefix = prefix + "." if prefix else ""
    if layers is None:
        pattern = re.compile(re.escape(prefix) + r"blocks\.\d+\." + re.escape(SITES[short]))
        return [lambda name: pattern.fullmatch(name) is not None]
    chosen = [layers] if isinstance(layers, int) else list(layers)
    if not chosen:
        raise ValueError("an empty selection of layers; leave it out to mean all of them")
    return [f"{prefix}blocks.{int(layer)}.{SITES[short]}" for layer in chosen]


def on(model: Any, fwd_hooks: Iterable[Hook]) -> list[Hook]:
    """The hooks with layers counted from the end made definite for `model`, every name checked.

    Raises:
        ValueError: for a hook name the model does not have.
    """
    definite: list[Hook] = []
    for name, function in fwd_hooks:
        if isinstance(name, str):
            name = count_from_end(name, model.hook_dict)
            if name not in model.hook_dict:
                raise ValueError(f"{type(model).__name__} has no hook point {name!r}")
        definite.append((name, function))
    return definite


def one_of(layer: Layers, layers: Layers) -> Layers:
    """`layer=` and `layers=` mean the same; both at once is an error."""
    if layer is not None and layers is not None:
        raise ValueError("give layer= or layers=, not both")
    return layers if layer is None else layer


def split_by_layer(layers: Layers, heads: Heads) -> list[tuple[Layers, list[int] | None]]:
    """Layers with the heads of each: `heads` may be head numbers, or (layer, head) pairs.

    Raises:
        ValueError: for no heads, or for pairs together with layers.
    """
    if heads is None:
        return [(layers, None)]
    chosen = [heads] if isinstance(heads, int) else list(heads)
    if not chosen:
        raise ValueError("an empty selection of heads; leave it out to mean all of them")
    if all(isinstance(head, int) for head in chosen):
        return [(layers, chosen)]
    if layers is not None:
        raise ValueError("heads given as (layer, head) pairs bring their layers; leave out layers=")
    by_layer: dict[int, list[int]] = {}
    for layer, head in chosen:
        by_layer.setdefault(int(layer), []).append(int(head))
    return list(by_layer.items())


def check_positions(positions: Positions) -> Positions:
    """Positions that can select something.

    Raises:
        ValueError: for an unknown group, or a selection of nothing.
    """
    if positions is None or isinstance(positions, int | slice):
        return positions
    if isinstance(positions, str):
        if positions not in GROUPS:
            raise ValueError(f"no token group is called {positions!r}; there are {', '.join(GROUPS)}")
        return positions
    tensor = torch.as_tensor(positions)
    if tensor.numel() == 0 or (tensor.dtype == torch.bool and not bool(tensor.any())):
        raise ValueError("an empty selection of positions; leave it out to mean all of them")
    if tensor.dtype.is_floating_point:
        raise ValueError(f"positions must be integers or a boolean mask, not {tensor.dtype}")
    return tensor


def select_positions(
    positions: Positions, length: int, hook: Any, device: torch.device, are_keys: bool = False
) -> Bool[Tensor, "#batch pos"]:
    """Which of an activation's `length` positions are selected.

    Positions are those of the whole sequence, negative ones counting from its end. With a key-value
    cache the activation holds only the new ones; our hook points tell how many came before.

    Args:
        are_keys: the axis holds the keys of an attention pattern, so every position so far.

    Raises:
        ValueError: for positions outside the sequence, or a group that this model cannot tell.
    """
    info = getattr(hook, "forward_info", None)
    n_past = 0 if info is None or are_keys else info.n_past
    total = n_past + length
    if positions is None or isinstance(positions, str):
        mask = _group_mask(positions or "all", total, info, device)
    elif isinstance(positions, Tensor) and positions.dtype == torch.bool:
        mask = _fitted(positions.to(device), total)
    else:
        mask = _index_mask(positions, total, info, device)
    return mask[:, n_past:]


def _fitted(mask: Bool[Tensor, "*batch some"], total: int) -> Bool[Tensor, "#batch total"]:
    """A prompt's mask, its generated positions unselected."""
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape[1] > total:
        raise ValueError(
            f"a mask of {mask.shape[1]} positions for a sequence of {total}; during generation with "
            "a TransformerBridge, which does not tell where it stands, use positions='last'"
        )
    return F.pad(mask, (0, total - mask.shape[1]))


def _index_mask(
    positions: Any, total: int, info: Any, device: torch.device
) -> Bool[Tensor, "1 total"]:
    mask = torch.zeros(1, total, dtype=torch.bool, device=device)
    if isinstance(positions, slice):
        mask[:, positions] = True
        return mask
    wanted = torch.as_tensor(positions, device=device).reshape(-1)
    inside = (-total <= wanted) & (wanted < total)
    generating = info is not None and info.n_prompt is not None
    if not generating and not bool(inside.all()):
        raise ValueError(
            f"position {int(wanted[~inside][0])} is outside the sequence of {total} positions"
        )
    mask[:, wanted[inside]] = True
    return mask


def _group_mask(
    group: str, total: int, info: Any, device: torch.device
) -> Bool[Tensor, "#batch total"]:
    """ "all", "last" (real position of each row), "audio", "text" (of the prompt) or "generated"."""
    places = torch.arange(total, device=device)[None]
    if group == "all":
        return places >= 0
    real = info.attention_mask if info is not None else None
    if group == "last":
        if real is None or real.shape[1] != total:
            return places == total - 1
        return places == (real.to(device) * places).argmax(1, keepdim=True)
    if info is None:
        raise ValueError(
            f"this model does not tell which tokens are {group!r}; pass prompt.audio_mask or its kin"
        )
    n_prompt = total if info.n_prompt is None else info.n_prompt
    if group == "generated":
        return places >= n_prompt
    if info.audio_mask is None:
        raise ValueError(f"positions={group!r}, but the input is no prompt with audio")
    audio = F.pad(info.audio_mask.to(device), (0, total - info.audio_mask.shape[1]))
    if group == "audio":
        return audio
    real = torch.ones_like(audio) if real is None else real.to(device)
    return ~audio & real & (places < n_prompt)
