"""Which activation: a site, by its short name or a hook name, and the layers it is in."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lens_audio.fingerprint import carrying
from lens_audio.sites.heads import Layers, as_integers, counted

HookName = str | Callable[[str], bool]

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
KEY_SITES = ("hook_k", "hook_v", "hook_rot_k", "hook_k_input", "hook_v_input")
QUERY_SITES = ("hook_q", "hook_rot_q", "hook_z", "hook_result", "hook_q_input", "hook_attn_in")
PATTERN_SITES = ("hook_attn_scores", "hook_pattern")
NEURON_SITES = ("mlp_pre", "mlp_pre_linear", "mlp_post")
BLOCK = re.compile(r"blocks\.(\{\}|-?\d+)\.")

# Where the first block reads what these hold: `hook_audio_embed` at the audio positions.
FIRST_READ = {
    "hook_embed": "blocks.0.hook_resid_pre",
    "hook_audio_embed": "blocks.0.hook_resid_pre",
    "audio_encoder.hook_embed": "audio_encoder.blocks.0.hook_resid_pre",
}


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

    @property
    def name(self) -> str:
        """The short name, where there is one for all of it; else the hook name."""
        names = (*ROOT_SITES, *SITES, *(f"audio_encoder.{short}" for short in SITES))
        return next((name for name in names if Site.of(name) == self), self.template)

    @property
    def short(self) -> str:
        """What it is in its block: "z" in any layer, of the decoder or the encoder."""
        within = BLOCK.split(self.template)[-1]
        return next((short for short, hook in SITES.items() if hook == within), within)

    @property
    def takes_layers(self) -> bool:
        """Whether it leaves the layer open."""
        return "{}" in self.template

    @property
    def is_in_blocks(self) -> bool:
        """Whether it is a hook point of blocks, of the decoder or the encoder."""
        return BLOCK.search(self.template) is not None

    @property
    def in_encoder(self) -> bool:
        """Whether it is inside the audio encoder."""
        return self.template.startswith("audio_encoder.")

    @property
    def is_audio(self) -> bool:
        """Before the decoder, where rows are clips and positions are frames or audio tokens."""
        return is_by_clip(self.template)

    @property
    def last_name(self) -> str:
        """The hook point's own name, such as "hook_z"."""
        return self.template.rsplit(".", 1)[-1]

    @property
    def is_pattern(self) -> bool:
        """Whether it is attention, [batch, head, query, key]: scores or pattern."""
        return self.last_name in PATTERN_SITES

    @property
    def is_residual(self) -> bool:
        """The residual stream of a block, or what is written into it: [batch, pos, d_model]."""
        return self.short in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")

    @property
    def position_axis(self) -> int:
        """Which dimension positions are; in patterns the queries'."""
        return 2 if self.is_pattern or self.last_name == "hook_mel" else 1

    @property
    def head_axis(self) -> int | None:
        """Which dimension heads are; None where there are none."""
        if self.is_pattern:
            return 1
        return 2 if self.last_name in (*QUERY_SITES, *KEY_SITES) else None

    @property
    def neuron_axis(self) -> int | None:
        """Which dimension neurons are; None where there are none."""
        return 2 if self.short in NEURON_SITES else None

    def n_neurons(self, cfg: Any) -> int | None:
        """Of a model with this config; None where there are no neurons."""
        if self.neuron_axis is None:
            return None
        return (cfg.audio if self.in_encoder else cfg).d_mlp

    def n_heads(self, cfg: Any) -> int | None:
        """Of a model with this config; None where there are no heads."""
        if self.head_axis is None:
            return None
        cfg = cfg.audio if self.in_encoder else cfg
        return cfg.kv_heads if self.last_name in KEY_SITES else cfg.n_heads

    def layers(self, cfg: Any, layers: Layers = None) -> list[int]:
        """The layers where `in_block` is, in a model with this config, counted from 0.

        Raises:
            ValueError: for no layers, layers that do not exist, or any for a site that is one hook
                point.
        """
        if not self.takes_layers:
            self._check_no_layers(layers)
            layers = int(BLOCK.findall(self.in_block().template)[0])
        return counted(layers, (cfg.audio if self.in_encoder else cfg).n_layers, "layer")

    def in_layer(self, layer: int) -> str:
        """The hook name in one layer."""
        return BLOCK.sub(f"blocks.{layer}.", self.template)

    def in_block(self) -> "Site":
        """The site where a block's hook point holds the same: itself, or what the first block reads.

        Raises:
            ValueError: for another site outside the blocks, with one to take instead.
        """
        if self.is_in_blocks:
            return self
        if self.template in FIRST_READ:
            return Site(FIRST_READ[self.template])
        reason = "the final norm and the unembedding read the last block"
        instead = "'resid_post' of the last layer"
        if re.match(
            r"audio_encoder\.(hook_pooled|hook_out|ln_final)|audio_projector", self.template
        ):
            reason = (
                "each of its tokens becomes one token of 'audio_embed', independently of the others"
            )
            instead = "'audio_embed'"
        elif self.is_audio:
            reason, instead = "the first block reads what it becomes", "'audio_encoder.embed'"
        raise ValueError(
            f"{self.name!r} is outside the blocks; sweeps and attribution act only inside them or at "
            f"what enters the first: {reason}; take {instead}"
        )

    def names(self, layers: Layers = None) -> list[HookName]:
        """Hook names in some layers; without layers, one function that selects them all.

        Raises:
            ValueError: for no layers, or layers for a site that is one hook point.
        """
        if not self.takes_layers:
            self._check_no_layers(layers)
            return [self.template]
        if layers is None:
            pattern = re.compile(re.escape(self.template).replace(r"\{\}", r"\d+"))
            in_any_layer = carrying(
                lambda name: pattern.fullmatch(name) is not None, site=self.template, layers="all"
            )
            return [in_any_layer]
        chosen = as_integers(layers, "layers")
        if chosen.ndim != 1:
            raise ValueError(f"layers must be numbers, not {layers!r}")
        return [self.template.format(layer) for layer in chosen.tolist()]

    def name_at(self, hook: Any) -> str:
        """HookedTransformer's name of a hook point here; a TransformerBridge calls it otherwise."""
        return self.in_layer(hook.layer()) if self.is_in_blocks else self.template

    def _check_no_layers(self, layers: Layers) -> None:
        if layers is not None:
            raise ValueError(f"{self.template!r} is one hook point, so it takes no layer")


def is_by_clip(name: str) -> bool:
    """Whether a hook point (or `…_grad` of one) of an audio model is before its decoder.

    The first axis is there all clips of the batch, flat in row order, and not the rows.
    """
    return name.startswith(("audio_", "hook_audio_"))


def count_from_end(name: str, hook_dict: Iterable[str]) -> str:
    """`blocks.-1.hook_z` as the last block's name; a layer out of range, or any other name, as it is."""
    match = re.match(r"(.*?)blocks\.(-\d+)\.(.*)", name)
    if match is None:
        return name
    prefix, layer, rest = match[1], int(match[2]), match[3]
    definite = 1 + max(_layers_of(name, hook_dict), default=-1) + layer
    return name if definite < 0 else f"{prefix}blocks.{definite}.{rest}"


def nothing_selected(names: Callable[[str], bool]) -> str:
    """In words, that a function of hook names selects none: of which site, if it is one's."""
    site = getattr(names, "facts", {}).get("site")
    return "a function of hook names selects none of the model's hook points" + (
        f": there is no {site!r}" if site else ""
    )


def what_exists(name: str, hook_dict: Iterable[str]) -> str:
    """In words, the layers that have a hook point of this name, or the names that are near it."""
    layers = _layers_of(name, hook_dict)
    if layers:
        return f"Layers run from 0 to {max(layers)}."
    near = difflib.get_close_matches(name, hook_dict, n=3, cutoff=0.5)
    return f"Did you mean {', '.join(near)}?" if near else "model.hook_dict lists all of them."


def _layers_of(name: str, hook_dict: Iterable[str]) -> list[int]:
    """The layers in which there is such a hook point."""
    block = BLOCK.search(name)
    if block is None:
        return []
    before, after = re.escape(name[: block.start()]), re.escape(name[block.end() :])
    same = re.compile(rf"{before}blocks\.(\d+)\.{after}")
    return [int(found[1]) for found in map(same.fullmatch, hook_dict) if found]
