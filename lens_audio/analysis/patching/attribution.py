"""Attribution patching: the effect of every patch at once, to first order.

Patching the activation a of a base run by the value a' of a source run changes the metric M by
about (a' - a) · dM/da. One backward gives dM/da everywhere: two forwards and a backward
for all cells.

Sources: Nanda, "Attribution Patching: Activation Patching At Industrial Scale" (2023); Syed, Rager,
Conmy, arXiv 2310.10348; with integrated gradients, Hanna, Pezzelle, Belinkov, arXiv 2403.17806.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_audio.analysis.metrics import AppliedMetric, MetricFunction, logits_needed
from lens_audio.analysis.patching.alignment import BaseAndSource, not_given, summed
from lens_audio.analysis.patching.cells import SweptNeurons, neuron_axis_name, swept_neurons
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.data.collect import collecting
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import SITES, Site

# Activations by hook name, and the logits; with the graph that leads to them.
Forward = tuple[dict[str, Tensor], Float[Tensor, "batch last d_vocab"]]

DEFAULT_SITES = ("resid_pre", "attn_out", "mlp_out", "z")
NOT_DIFFERENTIABLE = {
    "attn_scores": "they are -inf at masked keys",
    "result": "it is there only under a flag; z says the same",
}


def attribute(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None = None,
    metric: MetricFunction | None = None,
    *,
    sites: str | Iterable[str] = DEFAULT_SITES,
    neurons: SweptNeurons = None,
    direction: str = "denoise",
    steps: int = 1,
    path: str = "activations",
) -> dict[str, PatchingResult]:
    """Estimate what patching every layer, position and head (or neuron) would do to the metric.

    With `steps` > 1 the gradient is averaged along a straight line from base to source, at the
    middles of `steps` equal parts (EAP-IG takes their ends), for nodes where EAP-IG scores edges:

    - path "activations" (EAP-IG-activations): each layer's activations at a site move along the
      line, the rest of the base run follows. As `steps` grows, the effects of a layer's positions
      and heads add up to the exact effect of patching them all. `steps` runs a site and layer.
    - path "inputs" (EAP-IG-inputs, what the paper calls EAP-IG): the embeddings that enter the
      decoder move, sound included, and every activation follows. As `steps` grows, the effects at
      the embeddings add up to the whole difference of the metric. `steps` runs in all. When an
      encoder site is asked for, the embeddings are the text's and `audio_encoder.hook_embed`.
      With a "group" pair the way ends where every group of the base run is patched.

    Works inside `torch.no_grad()`. Nothing is left on the model, its weights get no gradients.

    Args:
        clean, corrupted: prompts of the same shape with their audio at the same positions, or a
            pair (`lens_audio.data.pair`) in the place of both. Of a "group" pair the effect of a
            group is the sum of its positions'.
        metric: a differentiable function of logits, one number a row, as in `patching.sweep`.
        sites: of a block ("resid_mid", "z", "k", "mlp_post", "pattern", …), the same with
            "audio_encoder." in front (positions are then encoder frames), "audio_embed", "embed",
            "audio_encoder.embed", or hook names in a block.
        neurons: of "mlp_post", "mlp_pre" or "mlp_pre_linear", as in `patching.sweep`; None for the
            effect of all of a position's neurons together. The effect of several is their sum.
        direction: "denoise" patches clean activations into the corrupted run, "noise" the reverse.
        steps: 1 for the gradient at the base run.
        path: where integrated gradients integrate, "activations" or "inputs".

    Returns:
        For each site a result as of `patching.sweep`, whose values are the estimated metric of the
        patched run (its base value and the effect), with axes metric, layer, position (a pattern's:
        query; of a "group" pair group), head where there are heads or neuron where they were asked
        for, example.

    Raises:
        ValueError: for prompts whose positions do not correspond, an unknown site, direction or
            path, no steps, neurons at a site without, a NaN metric, one without a gradient, hooks on
            the model, or inference mode.
    """
    names = [sites] if isinstance(sites, str) else list(sites)
    asked = [_site(name) for name in names]
    wanted = {site: _hook_names(model, site) for site in asked}
    parts = {site: swept_neurons(site, neurons, model.cfg) for site in asked}
    if metric is None:
        raise not_given(metric=metric)
    runs = _runs(model, clean, corrupted, direction, asked)
    if steps < 1 or path not in ("activations", "inputs"):
        raise ValueError(f"no steps={steps} of path={path!r}; there are 'activations' and 'inputs'")
    base, source = runs.base, runs.source
    points = {name for found in wanted.values() for name in found.values()}
    of_sound = ["audio_encoder.hook_embed"] if any(site.in_encoder for site in asked) else []
    begin = dict.fromkeys(["hook_embed", *of_sound])
    n_last = logits_needed([metric], base, source)
    with torch.no_grad():
        far, far_logits = _run(model, source, {*points, *begin}, {}, n_last)
        far = runs.at_base(far)
    with torch.set_grad_enabled(steps == 1):
        near, near_logits = _run(model, base, {*points, *begin}, begin, n_last)
    applied = AppliedMetric.to(metric, near_logits.detach(), far_logits)
    values = tuple(applied(some).detach().float().cpu() for some in (near_logits, far_logits))
    with torch.enable_grad():
        if steps == 1:
            gradients = _mean_gradients([(near, near_logits)], points, applied)
        else:
            # What is moved at once, and at which points the gradients are taken then.
            ways = [(begin, points)] if path == "inputs" else [([name], [name]) for name in points]
            gradients = {}
            for moved, at in ways:
                ends = {name: (near[name], far[name]) for name in moved}
                way = _between(model, base, at, ends, steps, n_last)
                gradients |= _mean_gradients(way, at, applied)
    method = "attribution patching"
    if steps > 1:
        method = f"integrated gradients over {path}, {steps} steps"
    about = {"direction": direction, "model": model.cfg.model_name, "method": method}
    results = {}
    with torch.no_grad():
        for name, site in zip(names, asked, strict=True):
            effects = {
                layer: _summed_over((far[point] - near[point]) * gradients[point], parts[site])
                for layer, point in wanted[site].items()
            }
            results[name] = _result(site, effects, parts[site], runs, applied.name, values, about)
    return results


def rank_correlation(estimated: PatchingResult, exact: PatchingResult) -> float:
    """Spearman's correlation between two results over their cells, effects averaged over examples.

    Effects below a thousandth of the largest count as none: rounding would rank them.

    Raises:
        ValueError: for results whose cells are not the same.
    """
    axes = [{k: v for k, v in r.axes.items() if k != "metric"} for r in (estimated, exact)]
    if axes[0] != axes[1]:
        raise ValueError("the results have other axes, so their cells cannot be compared")
    ranked = []
    for result in (estimated, exact):
        effects = (result.values[0] - result.base[0]).mean(-1).flatten()
        is_none = effects.abs() < 1e-3 * effects.abs().max()
        ranked.append(effects.masked_fill(is_none, 0.0).numpy())
    return float(stats.spearmanr(*ranked).statistic)


def _run(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    keep: Iterable[str],
    begin: Mapping[str, Tensor | None],
    n_last: int,
) -> Forward:
    """Run with the graph beginning at some hook points, whose activations may be given."""

    def begin_here(activation: Tensor, hook: Any) -> Tensor:
        given = begin[hook.name]
        leaf = (activation if given is None else given).detach().requires_grad_()
        if hook.name == "hook_embed" and "audio_encoder.hook_embed" in begin:
            # Sound comes from the encoder, whose graph it keeps.
            return torch.where(prompt.audio_mask.to(leaf.device)[..., None], activation, leaf)
        return leaf

    begins = [(name, begin_here) for name in begin]
    with model.hooks(fwd_hooks=begins), collecting(model, keep) as activations:
        logits = model(prompt, logits_to_keep=n_last)
    return activations, logits


def _between(
    model: HookedAudioTransformer,
    base: AudioPrompt,
    keep: Iterable[str],
    ends: Mapping[str, tuple[Tensor, Tensor]],
    steps: int,
    n_last: int,
) -> Iterator[Forward]:
    """Runs of the base with activations at the middles of equal parts of the way between two ends."""
    for step in range(steps):
        at = (step + 0.5) / steps
        moved = {name: torch.lerp(*ab, at) for name, ab in ends.items()}
        yield _run(model, base, keep, moved, n_last)


def _mean_gradients(
    runs: Iterable[Forward], names: Iterable[str], metric: AppliedMetric
) -> dict[str, Tensor]:
    """dM/da of activations, averaged over runs; rows do not mix, so one sum serves all."""
    names = list(names)
    gradients: list[Tensor] = []
    n_runs = 0
    for by_name, logits in runs:
        values = metric(logits)
        if not values.requires_grad:
            raise ValueError(f"metric {metric.name!r} has no gradient to the logits")
        activations = [by_name[name] for name in names]
        found = torch.autograd.grad(values.sum(), activations, materialize_grads=True)
        gradients = (
            [a + b for a, b in zip(gradients, found, strict=True)] if n_runs else list(found)
        )
        n_runs += 1
    return {name: total / n_runs for name, total in zip(names, gradients, strict=True)}


def _summed_over(
    effects: Float[Tensor, "*axes width"], neurons: Mapping[str, list[int]] | None
) -> Float[Tensor, "*axes"] | Float[Tensor, "*axes group"]:
    """The sum over an activation's last axis, or over each group of neurons."""
    if neurons is None:
        return effects.sum(-1)
    members = [(group, one) for group, some in enumerate(neurons.values()) for one in some]
    into, of = torch.tensor(members, device=effects.device).T
    totals = effects.new_zeros(*effects.shape[:-1], len(neurons))
    return totals.index_add_(-1, into, effects[..., of])


def _result(
    site: Site,
    effects: Mapping[int, Tensor],
    neurons: Mapping[str, list[int]] | None,
    runs: BaseAndSource,
    metric: str,
    values: Sequence[Tensor],
    about: dict[str, str],
) -> PatchingResult:
    """Effects of the layers, [batch, pos] or with heads or neurons, as layer, position or group,
    head or neuron, example.
    """
    where, audio_only = site.in_block(), site.name == "audio_embed"
    stacked = torch.stack(list(effects.values())).float().cpu()  # [layer, batch, pos (, head)]
    if where.is_pattern:  # [layer, batch, head, query]
        stacked = stacked.transpose(2, 3)
    prompt, alignment = runs.base, runs.alignment(where.in_encoder)
    places = range(stacked.shape[2])
    labels = [str(place) for place in places]
    axis = "position"
    masks: dict[str, Tensor] = {}
    if alignment is not None:
        axis = "group"
        masks, _ = alignment.cells(None, audio_only)
        stacked, labels = summed(stacked, masks), list(masks)
    elif audio_only:
        audio = prompt.audio_positions(0).cpu()
        stacked, labels = stacked[:, :, audio], [str(int(place)) for place in audio]
    elif where.in_encoder:
        labels = prompt.frame_labels()
    axes = {"metric": [metric], "layer": [str(layer) for layer in effects], axis: labels}
    if neurons is not None:
        axes[neuron_axis_name(neurons)] = list(neurons)
    elif stacked.ndim == 4:
        axes["head"] = [str(head) for head in range(stacked.shape[3])]
    axes["example"] = [str(row) for row in range(stacked.shape[1])]
    base, source = values
    estimated = stacked.movedim(1, -1) + base
    told = {"site": site.name, **about, **runs.about(where.in_encoder, masks.values())}
    return PatchingResult(estimated[None], axes, base[None], source[None], told)


def _site(name: str) -> Site:
    """The site of a name, if effects can be attributed to it."""
    try:
        site = Site.of(name)
        where = site.in_block()
        if where.short not in NOT_DIFFERENTIABLE:
            return site
        reason = NOT_DIFFERENTIABLE[where.short]
    except ValueError as error:
        reason = str(error)
    known = ", ".join(["audio_embed", *(name for name in SITES if name not in NOT_DIFFERENTIABLE)])
    raise ValueError(f"cannot attribute to {name!r}: {reason}; there are {known}")


def _hook_names(model: HookedAudioTransformer, site: Site) -> dict[int, str]:
    """The hook points of a site by layer."""
    where = site.in_block()
    names = {layer: where.in_layer(layer) for layer in site.layers(model.cfg)}
    missing = [name for name in names.values() if name not in model.hook_dict]
    if missing:
        raise ValueError(f"this model has no {missing[0]}")
    return names


def _runs(
    model: HookedAudioTransformer,
    clean: AudioPrompt | Pair,
    corrupted: AudioPrompt | None,
    direction: str,
    sites: Iterable[Site],
) -> BaseAndSource:
    """The runs, checked for every site."""
    if torch.is_inference_mode_enabled():
        raise ValueError("attribution needs gradients; leave torch.inference_mode()")
    runs = BaseAndSource.of(model, clean, corrupted, direction)
    base, by_group = runs.base, runs.decoder is not None
    for site in sites:
        runs.check_site(site)
        n_spectrograms = 0 if base.mel is None else len(base.mel)
        if site.in_encoder and n_spectrograms != len(base):
            raise ValueError(
                f"{site.name} has {n_spectrograms} clips or windows; it needs one in each of the rows"
            )
        lines_up = by_group or bool((base.audio_mask == base.audio_mask[0]).all())
        if site.name == "audio_embed" and not (lines_up and base.n_clips):
            raise ValueError("audio_embed needs audio, at the same positions in every row")
    return runs
