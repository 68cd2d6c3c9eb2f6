"""Activations put in at another layer than they were made at, of the same prompt or of another one."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio import hooks
from lens_audio.analysis.metrics import AppliedMetric, logits_needed
from lens_audio.analysis.patching.cells import check_last_positions, make_grid
from lens_audio.analysis.patching.fast import FastPatcher
from lens_audio.analysis.patching.positions import SweptPositions, sweep_masks
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.analysis.patching.sweeps import Metrics, by_name, values_of
from lens_audio.analysis.vocabulary import as_vectors, named_token
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import next_token_probs
from lens_audio.data.batches import check_batch_size
from lens_audio.data.collect import collecting
from lens_audio.inputs import AudioPrompt
from lens_audio.progress_bar import ProgressBar
from lens_audio.sites import Layers, Positions, Site, position_indices

# What is put in: what a table says of it, the vector, and the layer it is put in at.
Insertion = tuple[dict[str, Any], Float[Tensor, " d_model"], int]


@torch.no_grad()
def back_patch(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    metric: Metrics,
    *,
    site: str = "resid_post",
    positions: SweptPositions = "last",
    source_layers: Layers = None,
    target_layers: Layers = None,
    batch_tokens: int | None = None,
    verbose: bool = True,
) -> PatchingResult:
    """Put activations of one layer in at another, in a second run of the same prompt.

    From a later layer to an earlier one that is back-patching: what is known late is there in time
    for the layers that need it. From an earlier to a later one it skips what lies between. Within one
    layer it changes nothing.
    Source: Biran, Gottesman, Yang, Geva, Globerson, "Hopping Too Late", arXiv 2406.12775.

    Args:
        metric, batch_tokens, verbose: as in `patching.sweep`.
        site: "resid_post" or "resid_pre", or another site that every layer has, the encoder's too.
        positions: one selection, patched whole in every cell; or several, as in `patching.sweep`,
            which are an axis of their own.
        source_layers, target_layers: all by default; negative ones count from the last.

    Returns:
        Axes metric, source layer, target layer, position or group if they are several, example.
        `base` and `source` are the metric of the one prompt, so `recovery` is undefined.

    Raises:
        ValueError: for layers or positions that do not exist, a site that is one hook point, rows
            that end in padding, hooks on the model, or a metric as in `patching.sweep`.
    """
    where = _in_every_layer(site)
    check_last_positions(prompt)
    model.check_no_hooks()
    sources, targets = (where.layers(model.cfg, some) for some in (source_layers, target_layers))
    masks, axis = sweep_masks(where, positions, prompt, None)
    metrics = by_name(metric)
    n_last = logits_needed(metrics.values(), prompt)
    every = make_grid(masks, axis, sorted({*sources, *targets}), None)
    patcher = FastPatcher(model, where, prompt, prompt, every.cells, n_last)
    own = patcher.source_cache
    plain = patcher.base_logits
    applied = [AppliedMetric.to(m, plain, plain, name=n) for n, m in metrics.items()]
    base = values_of(applied, plain, allow_nan=False)
    grid = make_grid(masks, axis, targets, None)
    axes = {
        "metric": list(metrics),
        "source layer": [str(layer) for layer in sources],
        "target layer": grid.axes.pop("layer"),
        **grid.axes,
        "example": [str(row) for row in range(len(prompt))],
    }
    values = torch.full([len(labels) for labels in axes.values()], torch.nan)
    bar = ProgressBar(total=len(sources) * len(grid.cells), desc="patching", unit="cell", delay=1,
                      leave=False, disable=not verbose)  # fmt: skip
    with bar:
        for i, layer in enumerate(sources):
            patcher.source_cache = dict.fromkeys(targets, own[layer])
            for cell, logits in patcher.run(grid.cells, batch_tokens):
                values[(slice(None), i, *cell.index)] = values_of(applied, logits)  # type: ignore[index]
                bar.update()
    about = {"site": where.name, "method": "back-patching", "model": model.cfg.model_name}
    return PatchingResult(values, axes, base, base.clone(), about)


@torch.no_grad()
def patchscope(
    model: HookedAudioTransformer,
    source: AudioPrompt | Float[Tensor, "*vectors d_model"],
    target_prompt: str | AudioPrompt | Int[Tensor, "1 pos"],
    placeholder: str | int = "x",
    *,
    site: str = "resid_post",
    layers: Layers = None,
    positions: Positions = "last",
    target_layer: int | None = None,
    read: str = "text",
    k: int = 5,
    max_new_tokens: int = 20,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Put an activation in at a token of another prompt, and read what the model makes of it.

    Source: Ghandeharioun, Caciularu, Pearce, Dixon, Geva, "Patchscopes", arXiv 2401.06102.

    Args:
        source: a prompt of one row, or a vector, or several [n, d_model], such as activations that
            were mapped or averaged.
        target_prompt: what is asked about it: a text as it is (without the chat template), an
            AudioPrompt of one row, or tokens.
        placeholder: where: the token of the target prompt that reads so, or its position.
        site: where activations come from and are put in: "resid_post", "resid_pre", "resid_mid",
            "attn_out" or "mlp_out" of the decoder.
        layers: of the source prompt, all by default.
        positions: of the source prompt, as in `hooks.patch`; audio positions too.
        target_layer: where they are put in; by default the layer they come from.
        read: "text", what is generated, greedily, after the target prompt; or "next", the most
            probable next tokens.
        k: how many of those. max_new_tokens: of the text, at most.
        batch_size: copies of the target prompt that are run at once.

    Returns:
        One row a vector, or layer and position (for "next" a rank of each): `source layer`,
        `position`, `source token`, `seconds` (where the audio token begins, NaN in text), or `vector`;
        `target layer`; then `text`, or `rank`, `token id`, `token` and `probability`. Without a
        tokenizer tokens have no text.

    Raises:
        ValueError: for layers or positions that do not exist, a placeholder that does not occur once,
            a vector that is not finite, of another width or without target_layer, a prompt of
            several rows, another site, or hooks on the model.
    """
    where = _in_every_layer(site)
    if where.in_encoder or not where.is_residual:
        raise ValueError(
            f"{site!r} is not of the width of the decoder's residual stream; take 'resid_post', "
            "'resid_pre', 'resid_mid', 'attn_out' or 'mlp_out'"
        )
    if read not in ("text", "next"):
        raise ValueError(f"read must be 'text' or 'next', not {read!r}")
    check_batch_size(batch_size)
    model.check_no_hooks()
    target = _one_row(model, target_prompt, "target_prompt")
    place = _position_of(target, placeholder)
    if target_layer is not None:
        (target_layer,) = where.layers(model.cfg, target_layer)
    insertions: Iterable[Insertion]
    if isinstance(source, Tensor):
        insertions = _of_vectors(model, source, layers, target_layer)
    else:
        insertions = _of_prompt(model, source, where, layers, positions, target_layer)
    found: list[dict[str, Any]] = []
    for layer, group in groupby(insertions, key=lambda insertion: insertion[2]):
        same = list(group)
        for start in range(0, len(same), batch_size):
            some = same[start : start + batch_size]
            vectors = torch.zeros(len(some), target.tokens.shape[1], model.cfg.d_model)
            vectors[:, place] = torch.stack([vector for _, vector, _ in some])
            patch = hooks.patch(site, layer=layer, source=vectors, positions=place)
            with model.hooks(fwd_hooks=patch):
                copies = _repeated(target, len(some))
                if read == "next":
                    answers = _next_tokens(model, copies, k)
                else:
                    answers = _texts(model, copies, max_new_tokens)
            for (facts, _, _), said in zip(some, answers, strict=True):
                found += [{**facts, "target layer": layer, **one} for one in said]
    return pd.DataFrame(found)


def _in_every_layer(site: str) -> Site:
    """The site, if its layer is left open, so that there is another one to put activations in at."""
    where = Site.of(site)
    if not where.takes_layers:
        raise ValueError(
            f"{site!r} is one hook point; take a site that every layer has, such as 'resid_post'"
        )
    return where


def _one_row(model: HookedAudioTransformer, given: Any, what: str) -> AudioPrompt:
    if isinstance(given, str):
        given = model.to_tokens(given)
    if isinstance(given, Tensor):
        given = AudioPrompt.from_tensors(given, tokenizer=model.tokenizer, cfg=model.cfg)
    if len(given) != 1:
        raise ValueError(f"{what} has {len(given)} rows; give one")
    check_last_positions(given)
    return given


def _position_of(prompt: AudioPrompt, placeholder: str | int) -> int:
    """Where the placeholder is in a prompt of one row."""
    if not isinstance(placeholder, str):
        return int(position_indices(placeholder, prompt, takes_padding=False))
    texts = [text.strip() for text in prompt.str_tokens(0)]
    found = [place for place, text in enumerate(texts) if text == placeholder.strip()]
    if len(found) != 1:
        occurs = f"occurs at positions {found}" if found else "is no token"
        raise ValueError(
            f"the placeholder {placeholder!r} {occurs} of the target prompt, and must be one: write "
            f"another, or give its position, from 0 to {len(texts) - 1}. The tokens are {texts}"
        )
    return found[0]


def _of_vectors(
    model: HookedAudioTransformer, vectors: Tensor, layers: Layers, target_layer: int | None
) -> list[Insertion]:
    if target_layer is None or layers is not None:
        raise ValueError(
            "a vector comes from no layer: leave out layers=, and say by target_layer= where it is "
            "put in"
        )
    found = as_vectors(model, vectors).cpu()
    numbers = range(len(found)) if vectors.ndim > 1 else [None]
    return [
        ({} if number is None else {"vector": number}, vector, target_layer)
        for number, vector in zip(numbers, found, strict=True)
    ]


def _of_prompt(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    site: Site,
    layers: Layers,
    positions: Positions,
    target_layer: int | None,
) -> Iterator[Insertion]:
    """Activations of a prompt of one row, layer by layer."""
    _one_row(model, prompt, "source")
    chosen = site.layers(model.cfg, layers)
    places = position_indices(positions, prompt, takes_padding=False)[0]
    names = {layer: site.in_layer(layer) for layer in chosen}

    def take(activation: Tensor) -> Tensor:
        return activation[0, places.to(activation.device)].float().cpu()

    with collecting(model, names.values(), take) as kept:
        model(prompt, stop_at_layer=max(chosen) + 1)
    words = None if prompt.tokenizer is None else prompt.str_tokens(0)
    times = dict(zip(prompt.audio_positions(0).tolist(), prompt.audio_times(0), strict=True))
    for layer, name in names.items():
        for place, vector in zip(places.tolist(), kept[name], strict=True):
            facts: dict[str, Any] = {"source layer": layer, "position": place}
            if words is not None:
                facts["source token"] = words[place]
            facts["seconds"] = float(times[place][0]) if place in times else float("nan")
            yield facts, vector, layer if target_layer is None else target_layer


def _repeated(prompt: AudioPrompt, n: int) -> AudioPrompt:
    """A batch of one row, as many times."""
    tensors = ("tokens", "attention_mask", "audio_mask", "mel", "mel_lengths")
    given = {name: getattr(prompt, name) for name in tensors}
    copies: dict[str, Any] = {k: torch.cat([x] * n) for k, x in given.items() if x is not None}
    lists = {name: getattr(prompt, name) for name in ("waveforms", "texts")}
    return replace(prompt, **copies, **{name: x and x * n for name, x in lists.items()})


def _next_tokens(
    model: HookedAudioTransformer, prompt: AudioPrompt, k: int
) -> list[list[dict[str, Any]]]:
    """The most probable next tokens of each row."""
    if not 1 <= k <= model.cfg.d_vocab:
        raise ValueError(f"k must be from 1 to the {model.cfg.d_vocab} tokens there are, not {k}")
    best = next_token_probs(model, prompt).topk(k)
    return [
        [
            {"rank": rank, **named_token(model, token), "probability": p}
            for rank, (p, token) in enumerate(zip(*row, strict=True), 1)
        ]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _texts(
    model: HookedAudioTransformer, prompt: AudioPrompt, max_new_tokens: int
) -> list[list[dict[str, Any]]]:
    """What each row is continued by."""
    texts = model.generate(prompt, max_new_tokens, return_type="str", verbose=False)
    return [[{"text": text}] for text in ([texts] if isinstance(texts, str) else texts)]
