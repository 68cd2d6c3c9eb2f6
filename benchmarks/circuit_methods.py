"""How well attribution stands for exact edge patching, and how faithful the circuits of each are.

    python benchmarks/circuit_methods.py

Pairs of scenes on checkpoints whose readers are known. Every edge is scored on some pairs by each method;
the rank correlation is Spearman's with exact edge patching, over all edges, its interval a bootstrap
over pairs. The circuits are judged on other pairs: CPR and CMD (arXiv 2504.13151), intervals over pairs.
"""

import argparse

import numpy as np
import torch
from scipy.stats import spearmanr

import lens_audio as la
from lens_audio.analysis import circuits
from lens_audio.stats import BOUNDS, Interval

METHODS = ("exact", "eap", "eap-ig-inputs", "eap-ig-activations")
N_RESAMPLES = 200


def rank_correlation(graph: circuits.Graph, exact: circuits.Graph, seed: int) -> Interval:
    """Spearman's with the exact scores, over all edges, resampling pairs."""
    assert graph.by_example is not None
    assert exact.by_example is not None
    edges = graph.nodes.is_edge
    ours, theirs = (g.by_example[:, edges].double() for g in (graph, exact))
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(N_RESAMPLES):
        some = torch.from_numpy(rng.integers(len(ours), size=len(ours)))
        drawn.append(spearmanr(ours[some].mean(0), theirs[some].mean(0)).statistic)
    low, high = np.quantile(drawn, BOUNDS)
    value = spearmanr(ours.mean(0), theirs.mean(0)).statistic
    return Interval(float(value), float(low), float(high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", nargs="+", default=["emergent", "graded"])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--n", type=int, default=6, help="pairs to score on")
    parser.add_argument("--n-judge", type=int, default=16, help="pairs to judge circuits on")
    parser.add_argument("--seed", type=int, default=1301)
    args = parser.parse_args()
    print("| checkpoint | edges | method | rank correlation with exact | CPR | CMD |")
    print("|---|---|---|---|---|---|")
    for name in args.checkpoints:
        model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(name))
        found_on, judged_on = (
            list(circuits.pairs_of_items(model, la.testbed.make_scene_pairs(n, seed=seed)))
            for n, seed in ((args.n, args.seed), (args.n_judge, args.seed + 1))
        )
        exact = None
        for method in args.methods:
            graph = circuits.edges(model, found_on, method=method, by_example=True)
            exact = graph if method == "exact" else exact
            curve = circuits.faithfulness_curve(model, judged_on, graph, seed=args.seed)
            agrees = rank_correlation(graph, exact, args.seed) if exact else "exact not run"
            print(f"| {name} | {len(graph):,} | {method} | {agrees} | {curve.cpr} | {curve.cmd} |")


if __name__ == "__main__":
    main()
