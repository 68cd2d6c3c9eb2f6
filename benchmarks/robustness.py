"""Whether the listening score and the answers hold under noise and under an attack on the waveform.

    python benchmarks/robustness.py

Held-out scenes of the testbed, without a caption and with a false one, on checkpoints whose readers are
known: these are the heads of the score. Two Markdown tables for each checkpoint and condition, one for
each target of the attack; what an attack is: `lens_audio.analysis.perturbation`.
"""

import argparse

import pandas as pd

import lens_audio as la
from lens_audio.analysis import robustness
from lens_audio.stats import Interval

SHOWN = {
    "score": "listening score",
    "score_change": "its change",
    "accuracy": "right answers",
    "kept": "unchanged answers",
    "reached": "target alone moved",
}


def print_table(table: pd.DataFrame) -> None:
    """Every number with its 95 % interval over items."""
    print("| perturbation | dB below | " + " | ".join(SHOWN.values()) + " |")
    print("|---" * (2 + len(SHOWN)) + "|")
    for row in table.to_dict("records"):
        ends = ("", "_low", "_high")
        cells = [str(Interval(*(row[name + end] for end in ends))) for name in SHOWN]
        level = "" if row["what"] == robustness.UNPERTURBED else f"{row['level_db']:g}"
        print(f"| {row['what']} | {level} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", nargs="+", default=["emergent", "planted"])
    parser.add_argument("--n", type=int, default=40, help="items of each condition")
    parser.add_argument("--seed", type=int, default=1207, help="of items, noise and intervals")
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--noise-db", type=float, nargs="+", default=[30, 10])
    parser.add_argument("--attack-db", type=float, nargs="+", default=[50, 30])
    args = parser.parse_args()
    for name in args.checkpoints:
        model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(name))
        heads = la.testbed.truth(name).readers
        for caption in ("none", "false"):
            items = la.testbed.make_scene_items(args.n, args.seed, caption)
            about = f"n = {args.n}, seed {args.seed}, {args.steps} steps, {len(heads)} readers"
            for target in ("score", "answer"):
                found = robustness.measure(
                    model,
                    items,
                    heads,
                    noise_db=args.noise_db if target == "score" else (),
                    attack_db=args.attack_db,
                    target=target,
                    steps=args.steps,
                    seed=args.seed,
                    verbose=False,
                )
                print(f"\n{name}, {items[0].condition}, attack on the {target} ({about})\n")
                print_table(found.to_dataframe())
                print(end="", flush=True)


if __name__ == "__main__":
    main()
