"""Path patching: what a head tells other heads, or the logits, directly.

Sources: Wang et al., "Interpretability in the Wild" (IOI), arXiv 2211.00593, section 3.1;
Goldowsky-Dill et al., "Localizing Model Behavior with Path Patching", arXiv 2304.05969.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio import hooks
from lens_audio.analysis.metrics import AppliedMetric, MetricFunction, logits_needed, metric_name
from lens_audio.analysis.patching.alignment import BaseAndSource, as_pair, not_given
from lens_audio.analysis.patching.positions import mask_of
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.progress_bar import ProgressBar
from lens_audio.sites import Head, Site, check_pairs, every_head


@torch.no_grad()
def path_patch(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    metric: MetricFunction | None = None,
    *,
    receivers: str | Iterable[Any] = "logits",
    receiver_input: str = "q",
    senders: Iterable[Any] | None = None,
    positions: Any = "all",
    mlps: str = "recompute",
    direction: str = "denoise",
    verbose: bool = True,
) -> PatchingResult:
    """Patch the direct paths from each sender head to the receivers, one sender at a time.

    First, the base run with the sender's z from the source run and every other head's z as it was
    in the base run, receivers included: what reaches the receivers' q, k or v there came straight
    from the sender. Second, the base run with those q, k or v, all else free to follow. For the
    logits the first run is all.

    Between sender and receiver MLPs are recomputed, so that a path may lead through them: the IOI
    paper's convention. With mlps="freeze" they too write what they wrote in the base run, and only
    the residual stream carries: the convention of TransformerLens's `get_act_patch_direct_path`.

    Args:
        clean, corrupted: prompts of the same shape with their audio at the same positions, or a
            pair (`lens_audio.data.pair`) in the place of both.
        metric: a function of logits, one number a row, as in `patching.sweep`.
        receivers: "logits", or (layer, head) pairs; of k and v the heads are key-value heads.
        receiver_input: "q", "k" or "v".
        senders: (layer, head) pairs, or labels ("L0H2"); all heads by default.
        positions: where the sender is patched, and so where receivers are reached: "all", "last",
            "audio", "text", integers, a slice or a boolean mask; of a "group" pair names of groups.
        mlps: "recompute" or "freeze".
        direction: "denoise", where the base is the corrupted run, or "noise" (the IOI paper's),
            where it is the clean one.
        verbose: show a progress bar.

    Returns:
        A result as of `patching.sweep`: values are the metric of the patched run, with axes metric,
        layer and head (all senders) or sender ("9.6" is head 6 of layer 9), example. A sender with
        no receiver in a later layer has no path, so the base value.

    Raises:
        ValueError: for prompts whose positions do not correspond, heads that do not exist, no
            receivers or senders, a metric that is NaN or not one number a row, hooks on the model.
    """
    if metric is None:
        raise not_given(metric=metric)
    _check_options(receivers, receiver_input, mlps)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    chosen = every_head(n_layers, n_heads)
    if senders is not None:
        chosen = check_pairs(senders, n_layers, n_heads, "sender")
    reached = None
    if not isinstance(receivers, str):
        n_input_heads = n_heads if receiver_input == "q" else model.cfg.kv_heads
        reached = check_pairs(receivers, n_layers, n_input_heads, "receiver")
    pair = as_pair(clean, corrupted)
    paths = Paths.between(
        model, clean, corrupted, positions=positions, mlps=mlps, direction=direction,
        logits_to_keep=logits_needed([metric], pair.clean, pair.corrupted),
    )  # fmt: skip
    applied = AppliedMetric.to(metric, paths.base_logits, paths.source_logits)
    values = torch.empty(len(chosen), len(paths.base_logits))
    base_values = applied(paths.base_logits).float().cpu()
    source_values = applied(paths.source_logits).float().cpu()
    for i, sender in enumerate(
        ProgressBar(chosen, desc="path patching", disable=not verbose, leave=False)
    ):
        if reached is None:
            logits = paths.to_logits(sender)
        else:
            later = [receiver for receiver in reached if receiver[0] > sender[0]]
            logits = paths.to_heads(sender, later, receiver_input) if later else paths.base_logits
        values[i] = applied(logits).float().cpu()
    axes = {"metric": [metric_name(metric)]}
    if senders is None:
        values = values.unflatten(0, (n_layers, n_heads))
        axes |= {"layer": _labels(n_layers), "head": _labels(n_heads)}
    else:
        axes["sender"] = [f"{layer}.{head}" for layer, head in chosen]
    axes["example"] = _labels(len(paths.base_logits))
    about = {"method": "path patching", "direction": direction, "mlps": mlps, **paths.about}
    about["receivers"] = "logits" if reached is None else f"{receiver_input} of {reached}"
    return PatchingResult(values[None], axes, base_values[None], source_values[None], about)


@dataclass
class Paths:
    """The base run, from whose layers patched runs continue, and the z of the source run."""

    model: HookedAudioTransformer
    attention_mask: Bool[Tensor, "batch pos"]
    positions: Bool[Tensor, "rows pos"]
    base: Any  # caches
    source: Any
    base_logits: Float[Tensor, "batch last d_vocab"]
    source_logits: Float[Tensor, "batch last d_vocab"]
    freeze_mlps: bool
    about: dict[str, Any]  # how the runs line up

    @classmethod
    def between(
        cls,
        model: HookedAudioTransformer,
        clean: AudioPrompt | Pair,
        corrupted: AudioPrompt | None = None,
        *,
        positions: Any = "all",
        mlps: str = "recompute",
        direction: str = "denoise",
        logits_to_keep: int = 1,
    ) -> "Paths":
        """Both runs, and the logits of so many last positions; else as for `path_patch`."""
        _check_options("logits", "q", mlps)
        runs = BaseAndSource.of(model, clean, corrupted, direction)
        base, source = runs.base, runs.source
        if runs.decoder is None:
            where = mask_of(Site.of("z"), positions, base)
        else:
            where = runs.decoder.select(positions)
        freeze_mlps = mlps == "freeze"
        kept = ("attn.hook_z", "hook_resid_pre", *(["hook_mlp_out"] if freeze_mlps else []))

        def keeps(name: str) -> bool:
            return name.startswith("blocks.") and name.endswith(kept)

        base_logits, base_cache = model.run_with_cache(
            base, names_filter=keeps, logits_to_keep=logits_to_keep
        )
        source_logits, source_cache = model.run_with_cache(
            source,
            names_filter=lambda name: keeps(name) and name.endswith("hook_z"),
            logits_to_keep=logits_to_keep,
        )
        return cls(
            model,
            base.attention_mask.to(model.device),
            where,
            base_cache,
            runs.at_base(source_cache),
            base_logits,
            source_logits,
            freeze_mlps,
            runs.about(in_encoder=False, masks=[where]),
        )

    def to_logits(self, sender: Head) -> Float[Tensor, "batch last d_vocab"]:
        """The logits when only the direct paths from the sender change them."""
        return self._continued(sender[0], self._only_from(sender))

    def to_heads(
        self, sender: Head, receivers: list[Head], receiver_input: str
    ) -> Float[Tensor, "batch last d_vocab"]:
        """The logits when the direct paths from the sender change the receivers' q, k or v."""
        heard: dict[str, Tensor] = {}
        layers = sorted({layer for layer, _ in receivers})
        listen = hooks.capture(heard, receiver_input, layers=layers)
        direct = self._only_from(sender)
        self._continued(sender[0], direct + listen, stop_at_layer=layers[-1] + 1)
        told = hooks.patch(receiver_input, heads=receivers, source=heard)
        return self._continued(layers[0], told)

    def _only_from(self, sender: Head) -> list[hooks.Hook]:
        """The sender's z of the source run; other heads, and MLPs if asked, as in the base run."""
        layers = range(sender[0], self.model.cfg.n_layers)
        frozen = hooks.patch("z", layers=layers, source=self.base)
        if self.freeze_mlps:
            frozen += hooks.patch("mlp_out", layers=layers, source=self.base)
        return frozen + hooks.patch(
            "z", heads=[sender], source=self.source, positions=self.positions
        )

    def _continued(self, layer: int, fwd_hooks: list[hooks.Hook], **options: Any) -> Tensor:
        """The base run from one layer on, with hooks."""
        self.model.check_no_hooks()
        return self.model.run_with_hooks(
            self.base["resid_pre", layer],
            start_at_layer=layer,
            attention_mask=self.attention_mask,
            logits_to_keep=self.base_logits.shape[1],
            fwd_hooks=fwd_hooks,
            **options,
        )


def _labels(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def _check_options(receivers: Any, receiver_input: str, mlps: str) -> None:
    options = {
        "receivers": (receivers if isinstance(receivers, str) else "logits", ("logits",)),
        "receiver_input": (receiver_input, ("q", "k", "v")),
        "mlps": (mlps, ("recompute", "freeze")),
    }
    for name, (value, known) in options.items():
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {value!r}")
