"""Where a hook function acts: sites, their hook names, layers and heads."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch

from lens_audio.fingerprint import carrying
from lens_audio.model.clips import is_by_clip
from lens_audio.model.hooked_root import count_from_end

HookName = str | Callable[[str], bool]
Function = Callable[..., Any]  # (activation, hook) -> a new activation, or None
Hook = tuple[HookName, Function]
Layers = SupportsIndex | Iterable[Any] | None
Heads = SupportsIndex | Iterable[Any] | None  # numbers, or (layer, head) pairs

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
INPUT_SITES = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in")
PATTERN_SITES = ("hook_attn_scores", "hook_pattern")
BLOCK = re.compile(r"blocks\.-?\d+\.")


@dataclass(frozen=True)
class Site:
    """A kind of activation, by its hook name; `blocks.{}.` where the layer is left open."""

    template: str

    @classmethod
    def of(cls, name: str) -> "Site":
        """The site of a short name ("z", "audio_encoder.resid_post") or of a full hook name.

        Raises:
            ValueError: for a name that is neither.
        """
        if "hook_" in name:
            return cls(name)
        if name in ROOT_SITES:
            return cls(ROOT_SITES[name])
        prefix, _, short = name.rpartition(".")
        if short not in SITES or prefix not in ("", "audio_encoder"):
            known = [*SITES, *ROOT_SITES]
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ValueError(f"no site is called {name!r}; there are {', '.join(near)}")
        return cls(f"{prefix and prefix + '.'}blocks.{{}}.{SITES[short]}")

    def names(self, layers: Layers = None) -> list[HookName]:
        """Hook names in some layers; without layers, one function that selects them all.

        Raises:
            ValueError: for no layers, or layers for a site that is one hook point.
        """
        if "{}" not in self.template:
            if layers is not None:
                raise ValueError(f"{self.template!r} is one hook point, so it takes no layer")
            return [self.template]
        if layers is None:
            pattern = re.compile(re.escape(self.template).replace(r"\{\}", r"\d+"))
            in_any_layer = carrying(
                lambda name: pattern.fullmatch(name) is not None, site=self.template, layers="all"
            )
            return [in_any_layer]
        chosen = _as_ints(layers, "layers")
        if chosen.ndim != 1:
            raise ValueError(f"layers must be numbers, not {layers!r}")
        return [self.template.format(layer) for layer in chosen.tolist()]

    def name_at(self, hook: Any) -> str:
        """HookedTransformer's name of a hook point here; a TransformerBridge calls it otherwise."""
        if "blocks." not in self.template:
            return self.template
        block = f"blocks.{hook.layer()}."
        return BLOCK.sub(block, self.template.replace("blocks.{}.", block))

    @property
    def last_name(self) -> str:
        return self.template.rsplit(".", 1)[-1]

    @property
    def is_audio(self) -> bool:
        """Before the decoder, where rows are clips and positions are frames or audio tokens."""
        return is_by_clip(self.template)

    @property
    def is_pattern(self) -> bool:
        return self.last_name in PATTERN_SITES

    @property
    def position_axis(self) -> int:
        """In patterns the queries'."""
        return 2 if self.is_pattern or self.last_name == "hook_mel" else 1

    @property
    def head_axis(self) -> int | None:
        if self.is_pattern:
            return 1
        return 2 if self.last_name in (*HEAD_SITES, *INPUT_SITES) else None


def hook_names(site: str, layers: Layers = None) -> list[HookName]:
    """The hook names of a site in some layers; without layers, one function that selects all.

    Args:
        site: a short name ("z", "audio_encoder.resid_post"), or a hook name in full.
        layers: one layer or several; negative ones count from the last.

    Raises:
        ValueError: for an unknown site, no layers, or layers for a site outside the blocks.
    """
    return Site.of(site).names(layers)


def on(model: Any, fwd_hooks: Iterable[Hook]) -> list[Hook]:
    """The hooks with layers counted from the end made definite for `model`, every name checked.

    A TransformerBridge needs this. It does not tell hook functions where they are in a sequence:
    there positions are those of each forward, "last" is its last position, "audio", "text" and
    "generated" are refused, and padding on the right is not known. Its `hook_resid_mid` is only
    what the MLP reads; a change there is added to the block's output too, as if to the stream.

    Raises:
        ValueError: for a hook name the model does not have.
    """
    known = model.hook_dict
    first: list[Hook] = []
    definite: list[Hook] = []
    for name, function in fwd_hooks:
        if isinstance(name, str):
            name = count_from_end(name, known)
            if name not in known:
                raise ValueError(f"no hook point is called {name!r}. {_what_exists(name, known)}")
            names = [name]
        else:
            names = list(filter(name, known))
            if not names:
                raise ValueError("a function of hook names selects none of the model's hook points")
        aside = [n for n in names if n.endswith("hook_resid_mid") and known[n].name != n]
        for mid in aside:
            at_mid, at_post = _in_both_branches(function)
            definite.append((mid, at_mid))
            first.append((mid.replace("hook_resid_mid", "hook_resid_post"), at_post))
        if not aside:
            definite.append((name, function))
    return first + definite


def _in_both_branches(
    function: Callable[..., Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function at the MLP's input, and the change it made once more at the block's output."""
    changes: list[torch.Tensor] = []

    def at_mid(activation: torch.Tensor, hook: Any) -> Any:
        changes.clear()
        new = function(activation, hook=hook)
        if new is not None:
            changes.append(new - activation)
        return new

    def at_post(activation: torch.Tensor, hook: Any) -> Any:
        return activation + changes.pop() if changes else None

    facts = getattr(function, "facts", None)
    if facts is not None:
        carrying(at_mid, **facts)
        carrying(at_post, **facts)
    return at_mid, at_post


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
    chosen = _as_ints(heads, "heads")
    if chosen.ndim == 1:
        return [(layers, chosen.tolist())]
    if chosen.shape[1] != 2:
        raise ValueError(f"heads must be numbers or (layer, head) pairs, not {heads!r}")
    if layers is not None:
        raise ValueError("heads given as (layer, head) pairs bring their layers; leave out layers=")
    by_layer: dict[int, list[int]] = {}
    for layer, head in chosen.tolist():
        by_layer.setdefault(layer, []).append(head)
    return [(layer, some) for layer, some in by_layer.items()]


def _as_ints(chosen: Any, what: str) -> torch.Tensor:
    """[n] or [n, 2] integers."""
    try:
        listed = chosen if hasattr(chosen, "__index__") else list(chosen)
        numbers = torch.atleast_1d(torch.as_tensor(listed))
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be integers, not {chosen!r}") from None
    if numbers.numel() == 0:
        raise ValueError(f"an empty selection of {what}; leave it out to mean all of them")
    if numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.ndim > 2:
        raise ValueError(f"{what} must be integers, not {chosen!r}")
    return numbers


def _what_exists(name: str, known: Iterable[str]) -> str:
    match = BLOCK.search(name)
    if match is not None:
        before, after = re.escape(name[: match.start()]), re.escape(name[match.end() :])
        same = re.compile(rf"{before}blocks\.(\d+)\.{after}")
        layers = [int(found[1]) for found in map(same.fullmatch, known) if found]
        if layers:
            return f"Layers run from 0 to {max(layers)}."
    near = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {', '.join(near)}?" if near else "model.hook_dict lists all of them."
