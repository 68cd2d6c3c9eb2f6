"""The score card: how well methods find the true readers among the labelled heads, and their edges."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio import files
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.evals.localisation.findings import findings
from lens_audio.evals.localisation.methods import INPUTS, METHODS, Method, Pairs, Scores
from lens_audio.progress_bar import ProgressBar
from lens_audio.sites import head_name
from lens_audio.stats import BOUNDS, N_RESAMPLES, share_in_order
from lens_audio.tables import write_table
from lens_audio.testbed import KNOWN, Truth, checkpoint_dir, make_scene_pairs, truth

Scored = Method | Callable[[HookedAudioTransformer, Pairs], Scores]


@dataclass(frozen=True, eq=False)
class ScoreCard:
    """What `score` found: a row a checkpoint, condition and method.

    Columns of `table`: checkpoint, condition, method; auroc, of the method's score for a true
    reader among the labelled heads; precision, the share of readers among the first k heads, and
    decoys, that of decoys (of heads with equal scores the mean over all orders); k, the number of
    readers; n_pairs; forwards, what a pair costs (`Method.forwards`); heads, the first k (of equal
    ones those of earlier layers). edge_auroc is that of a labelled edge's size (`Truth.edges`): the
    audio into a reader's keys or values, among those into other heads'; NaN of a method that scores
    no edges.
    `…_low` and `…_high` are 95 % percentile bootstrap intervals over pairs, on the same resamples
    for all methods; they are missing for a method that gives no scores by pair.
    """

    table: pd.DataFrame
    truths: tuple[Truth, ...]

    @classmethod
    def joined(cls, cards: Sequence["ScoreCard"]) -> "ScoreCard":
        """The cards of several checkpoints as one."""
        table = pd.concat([card.table for card in cards], ignore_index=True)
        return cls(table, tuple(truth for card in cards for truth in card.truths))

    def __repr__(self) -> str:
        n_methods, names = (
            self.table["method"].nunique(),
            ", ".join(self.table["checkpoint"].unique()),
        )
        return f"ScoreCard({n_methods} methods on {names})"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.findings)
        return said + self.table.to_html(index=False, float_format="%.3f")

    @cached_property
    def findings(self) -> list[str]:
        """In sentences, which methods find the readers, and which ones fool themselves."""
        return findings(self.table)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the table.

        Raises:
            OSError: if the path cannot be written.
        """
        return write_table(self.table, path)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the table, the sentences and what is known of each checkpoint; NaN is null.

        Raises:
            OSError: if the path cannot be written.
        """
        facts = {
            "findings": self.findings,
            "truths": [truth.to_dict() for truth in self.truths],
            "table": json.loads(self.table.to_json(orient="records")),
        }
        return files.write_text(path, json.dumps(facts, indent=1) + "\n")


def score_checkpoints(
    names: Iterable[str] = KNOWN,
    n: int = 100,
    seed: int = 90,
    methods: Mapping[str, Scored] = METHODS,
    *,
    device: str | None = None,
    verbose: bool = True,
) -> ScoreCard:
    """The score card of embedded checkpoints, on n held-out pairs without a caption ("captionless")
    and n with a caption that names another sound ("conflict").

    Args:
        names: of `testbed.KNOWN`.
        methods, verbose: as for `score`.

    Raises:
        ValueError: for another name, or fewer than 2 pairs.
    """
    truths = [truth(name) for name in names]
    captions: dict[str, Any] = {"captionless": "none", "conflict": "false"}
    pairs = {name: make_scene_pairs(n, seed, caption) for name, caption in captions.items()}
    cards = []
    for known in truths:
        folder = checkpoint_dir(known.checkpoint)
        model = HookedAudioTransformer.from_pretrained(folder, device=device)
        cards.append(score(model, known, pairs, methods, seed=seed, verbose=verbose))
    return ScoreCard.joined(cards)


def score(
    model: HookedAudioTransformer,
    truth: Truth,
    pairs: Mapping[str, Pairs],
    methods: Mapping[str, Scored] = METHODS,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    verbose: bool = True,
) -> ScoreCard:
    """How well each method finds the model's true readers.

    Args:
        truth: of this model; its `labels(condition)` say which heads count.
        pairs: (clean, corrupted) items by condition, "captionless" or "conflict".
        methods: by name, a `Method`, or a function alone as `Method.function` is.
        n_resamples, seed: of the bootstrap over pairs.
        verbose: show a progress bar.

    Raises:
        ValueError: for no methods, fewer than 2 pairs, a truth of other sizes or without readers,
            a method whose scores have another shape, or hooks on the model.
    """
    model.check_no_hooks()
    _check(model, truth, pairs, methods)
    rows = []
    total = len(pairs) * len(methods)
    with ProgressBar(total=total, unit="method", disable=not verbose, leave=False) as bar:
        for condition, some in pairs.items():
            rng = np.random.default_rng(seed)
            draws = torch.from_numpy(rng.integers(len(some), size=(n_resamples, len(some))))
            for name, method in methods.items():
                bar.set_description(f"{truth.checkpoint}, {condition}: {name}")
                method = method if isinstance(method, Method) else Method(method)
                scores = _scores(method, name, model, some, draws)
                of_heads = scores.sum(-1) if method.of_edges else scores
                n_heads = model.cfg.n_layers * model.cfg.n_heads
                forwards = None if method.forwards is None else method.forwards(n_heads)
                about: dict[str, Any] = {
                    "checkpoint": truth.checkpoint,
                    "condition": condition,
                    "method": name,
                }
                about |= _judged(truth, condition, of_heads)
                about |= _edges_judged(truth, scores if method.of_edges else None)
                rows.append({**about, "n_pairs": len(some), "forwards": forwards})
                bar.update()
    table = pd.DataFrame(rows)
    return ScoreCard(table.astype({"forwards": "Int64"}), (truth,))


def _check(
    model: HookedAudioTransformer,
    truth: Truth,
    pairs: Mapping[str, Pairs],
    methods: Mapping[str, Scored],
) -> None:
    """Refuse what cannot be scored."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if (n_layers, n_heads) != (truth.n_layers, truth.n_heads):
        raise ValueError(
            f"the truth is of {truth.n_layers} layers x {truth.n_heads} heads, this model has "
            f"{n_layers} x {n_heads}; give the truth of this checkpoint"
        )
    if not truth.readers:
        raise ValueError(f"no readers are known of {truth.checkpoint}, so none can be found")
    if not methods or not pairs:
        raise ValueError(
            f"{len(methods)} methods and {len(pairs)} conditions; give at least one of each"
        )
    for condition, some in pairs.items():
        if len(some) < 2:
            raise ValueError(f"{len(some)} pairs of {condition} are too few; give at least 2")


def _scores(
    method: Method,
    name: str,
    model: HookedAudioTransformer,
    pairs: Pairs,
    draws: Int[Tensor, "draw pair"],
) -> Float[np.ndarray, "set layer head *input"]:
    """Scores over all pairs, then over each draw of them (none where there are no scores by pair).

    Of a method of edges the sizes, by input.
    """
    inputs = [len(INPUTS)] if method.of_edges else []
    shape = torch.Size([model.cfg.n_layers, model.cfg.n_heads, *inputs])
    given = method.function(model, pairs)
    scores = given if callable(given) else torch.as_tensor(given)
    sets = [torch.arange(len(pairs)), *draws]
    if callable(scores):
        found = [scores(some) for some in sets]
    elif scores.shape == (len(pairs), *shape):
        found = [scores[some.to(scores.device)].mean(0) for some in sets]
    else:
        found = [scores]
    if found[0].shape != shape:
        what = "edge" if method.of_edges else "head"
        raise ValueError(
            f"method {name!r} gave scores of shape {tuple(found[0].shape)}; give one for "
            f"each {what}, {tuple(shape)}, or for each pair and {what}, {(len(pairs), *shape)}"
        )
    every = torch.stack(found).detach().double().cpu()
    return (every.abs() if method.absolute or method.of_edges else every).numpy()


def _judged(
    truth: Truth, condition: str, scores: Float[np.ndarray, "set layer head"]
) -> dict[str, Any]:
    """AUROC, precision and the share of decoys, of the labelled heads alone.

    The first set gives the values, the others the intervals.
    """
    labels = truth.labels(condition)
    heads, is_reader = list(labels), np.array(list(labels.values()))
    is_decoy = np.array([head in truth.decoys for head in heads])
    layers, numbers = np.array(heads).T
    k = int(is_reader.sum())
    every = scores[:, layers, numbers]
    undefined = np.isnan(every).all(1)
    every = np.where(np.isnan(every), -np.inf, every)  # a head without a score comes last
    measures = {
        "auroc": share_in_order(every[:, is_reader], every[:, ~is_reader]),
        "precision": share_in_first(every, is_reader, k),
        "decoys": share_in_first(every, is_decoy, k),
    }
    found: dict[str, Any] = {}
    for name, values in measures.items():
        found |= _with_interval(name, np.where(undefined, np.nan, values))
    del found["decoys_low"], found["decoys_high"]
    first = np.argsort(-every[0], kind="stable")[:k]
    named = "" if undefined[0] else " ".join(head_name(*heads[i]) for i in first)
    return {**found, "k": k, "heads": named}


def _edges_judged(
    truth: Truth, scores: Float[np.ndarray, "set layer head input"] | None
) -> dict[str, float]:
    """AUROC of the labelled edges; NaN of no scores."""
    if scores is None:
        return _with_interval("edge_auroc", np.array([np.nan]))
    edges = truth.edges()
    heads, inputs = zip(*((edge.head, INPUTS.index(edge.input)) for edge in edges), strict=True)
    is_reader = np.array([edge.is_reader for edge in edges])
    every = scores[:, *np.array(heads).T, inputs]
    return _with_interval("edge_auroc", share_in_order(every[:, is_reader], every[:, ~is_reader]))


def _with_interval(name: str, values: Any) -> dict[str, float]:
    """The first set's value, and what the others leave between the bounds; NaN is none."""
    value, *drawn = values
    drawn = [one for one in drawn if one == one]
    low, high = np.quantile(drawn, BOUNDS) if drawn else (np.nan, np.nan)
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def share_in_first(
    scores: Float[np.ndarray, "set head"], is_member: Bool[np.ndarray, " head"], k: int
) -> Float[np.ndarray, " set"]:
    """The share of members among the k heads of highest score; of ties, the mean over all orders."""
    least = -np.sort(-scores, axis=-1)[:, k - 1 : k]
    above, tied = scores > least, scores == least
    share_of_tied = (k - above.sum(-1)) / tied.sum(-1)
    return ((above & is_member).sum(-1) + (tied & is_member).sum(-1) * share_of_tied) / k
