"""How well attribution patching ranks cells: its rank correlation with exact patching, by site.

    python benchmarks/attribution.py

Pairs of held-out sounds of the testbed under one question, on the embedded checkpoint.
"""

import argparse
from itertools import islice

import torch

import lens_audio as la
from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute, rank_correlation

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")
SECONDS = 2.0  # both recordings are cut to this


def pairs(model, seed):
    """Prompts with the same question over two sounds, and the metric that tells them apart."""
    items = la.testbed.make_items(200, seed=seed)
    n_samples = int(SECONDS * 16000)
    for a, b in zip(items[::2], items[1::2], strict=True):
        words = [model.to_single_token(choice) for choice in a.choices]
        long_enough = min(len(a.waveform), len(b.waveform)) >= n_samples
        if a.answer == b.answer or not long_enough:
            continue
        answer = model.to_single_token(a.answer)
        clean, corrupted = (
            model.prompt(a.question, audio=item.waveform[:n_samples], sampling_rate=16000)
            for item in (a, b)
        )
        yield clean, corrupted, logit_diff(answer, [[w for w in words if w != answer]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--steps", type=int, default=8, help="of integrated gradients")
    args = parser.parse_args()
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
    found = {site: {1: [], args.steps: []} for site in SITES}
    for clean, corrupted, metric in islice(pairs(model, args.seed), args.pairs):
        for site, by_steps in found.items():
            heads = "each" if len(site) == 1 else None
            exact = sweep(model, clean, corrupted, site, metric, heads=heads, verbose=False)
            for steps, values in by_steps.items():
                estimated = attribute(model, clean, corrupted, metric, sites=site, steps=steps)[
                    site
                ]
                values.append(rank_correlation(estimated, exact))
    print(f"Spearman correlation with exact patching, mean over {args.pairs} pairs of sounds")
    print(f"{'site':12}{'gradient':>10}{f'{args.steps} steps':>10}")
    for site, by_steps in found.items():
        line = "".join(f"{torch.tensor(values).mean():10.2f}" for values in by_steps.values())
        print(f"{site:12}{line}", flush=True)


if __name__ == "__main__":
    main()
