"""What a checkpoint with a known answer does on held-out items:
`python -m lens_audio.testbed.known.measure graded`.

Accuracy of every kind of question under every caption, and captionless items without the true
readers' attention to the audio, without all others', and without any.
"""

from __future__ import annotations

import argparse
from typing import get_args

import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm.auto import tqdm

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.knock_out import right_answers_without
from lens_audio.sites import Head, every_head
from lens_audio.stats import paired_difference, wilson
from lens_audio.testbed import CHECKPOINTS
from lens_audio.testbed.ground_truth import Truth, named_folder, read_truth
from lens_audio.testbed.items import Caption
from lens_audio.testbed.scenes import SceneKind, make_scene_items

ABOVE_CHANCE = 0.1  # a task that is answered less well is left out
BATCH_SIZE = 32


def cuts_of(truth: Truth) -> dict[str, list[Head]]:
    """Sets of heads to cut, by what is said of them."""
    heads = every_head(truth.n_layers, truth.n_heads)
    reading = {*truth.readers, *truth.backups}
    cuts = {
        "no head cut": [],
        "true readers cut": list(truth.readers),
        "all but the true readers cut": [head for head in heads if head not in truth.readers],
        "all heads cut": heads,
    }
    if truth.backups:
        cuts["readers and backups cut"] = sorted(reading)
        cuts["all but readers and backups cut"] = [head for head in heads if head not in reading]
    if truth.decoys:
        cuts["decoys cut"] = list(truth.decoys)
    return cuts


def main() -> None:
    """Print both tables, with 95 % intervals (Wilson; bootstrap for differences)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help=f"a folder, or one of {', '.join(CHECKPOINTS)}")
    parser.add_argument("--n", type=int, default=1000, help="items of each kind and caption")
    parser.add_argument("--seed", type=int, default=61, help="of the items")
    options = parser.parse_args()
    name = options.checkpoint
    folder = named_folder(name)
    model, truth = HookedAudioTransformer.from_pretrained(folder), read_truth(folder)

    def right(kind: SceneKind, caption: Caption, cuts: list[list[Head]]) -> Tensor:
        items = make_scene_items(options.n, options.seed, caption, kind)
        return right_answers_without(model, items, cuts, batch_size=BATCH_SIZE, verbose=False)[0]

    print("| questions | captions | accuracy [95 % interval] | |\n|---|---|---|---|")
    for kind in tqdm(get_args(SceneKind), desc="questions", leave=False):
        chance = 0.5 if kind == "yes_no" else 0.25
        for caption in ("none", "true", "false"):
            share = wilson(right(kind, caption, [[]])[0])
            left_out = caption == "none" and share.value < chance + ABOVE_CHANCE
            said = "left out: less than 10 points above chance" if left_out else ""
            print(f"| {kind} | {caption} | {share} | {said} |")
            if left_out:
                break
    cuts = cuts_of(truth)
    found: Bool[Tensor, "cut item"] = torch.cat(
        [right(kind, "none", list(cuts.values())) for kind in ("what", "which")], dim=1
    )
    print(f"\n{truth!r}\n\n| captionless | accuracy | change, paired |\n|---|---|---|")
    for cut, correct in zip(cuts, found, strict=True):
        print(f"| {cut} | {wilson(correct)} | {paired_difference(correct, found[0])} |")


if __name__ == "__main__":
    main()
