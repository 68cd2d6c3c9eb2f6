"""Which heads read the audio, by knock-out: `python -m lens_audio.testbed.find_truth graded`.

Backward elimination: of all heads but a kept set the audio keys are cut, and the kept set shrinks by
the head whose loss costs least of the right answer's probability, as long as what is lost of it in
all stays within a tolerance. Those kept are the readers. Then the readers are cut, and whichever
head costs most of what is left is added, until the answer is no likelier than with all heads deaf:
those are backups. Attention is never looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.items import AudioQAItem
from lens_audio.data.knock_out import right_answers_without, search_backups
from lens_audio.sites import Head, every_head, head_name
from lens_audio.testbed import CHECKPOINTS
from lens_audio.testbed.ground_truth import (
    Truth,
    named_folder,
    read_truth,
    write_truth,
)
from lens_audio.testbed.scenes import make_scene_items

N_CANDIDATES = 16  # heads that elimination begins with, by what each does alone
N_ITEMS, SEED = 200, 23
KEPT_TOLERANCE = 0.015  # of the right answer's probability, that the readers alone may lack
DEAF_TOLERANCE = 0.03  # above that of all heads deaf, at which no backup is left to look for

Cuts = Callable[[Sequence[Sequence[Head]]], Float[Tensor, " cut"]]


@dataclass(frozen=True)
class Found:
    """What elimination and the search for backups came to."""

    readers: list[Head]
    backups: list[Head]
    path: list[tuple[list[Head], float]]  # kept heads, and the right answer's probability with them
    whole: float  # the same with all heads
    deaf: float  # with none


def find_readers(
    model: HookedAudioTransformer,
    items: Sequence[AudioQAItem],
    *,
    batch_size: int = 25,
    verbose: bool = True,
) -> Found:
    """`search` over a model's heads.

    Args:
        items: without captions, so that the answer comes from the audio alone.
    """
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    with tqdm(desc="knocking out", unit="set", disable=not verbose) as bar:

        def prob(cuts: Sequence[Sequence[Head]]) -> Float[Tensor, " cut"]:
            probs = right_answers_without(model, items, cuts, batch_size=batch_size, verbose=False)[
                1
            ]
            bar.update(len(cuts))
            return probs.mean(1)

        return search(prob, every_head(n_layers, n_heads))


def search(
    prob: Cuts,
    everything: list[Head],
    kept_tolerance: float = KEPT_TOLERANCE,
    deaf_tolerance: float = DEAF_TOLERANCE,
) -> Found:
    """The smallest set of heads that keeps the right answer's probability, and its backups.

    Args:
        prob: the right answer's mean probability without each of some sets of heads.
        everything: all heads there are.

    Raises:
        ValueError: where the audio does not matter, so that no head can be found.
    """
    whole, deaf = prob([[], everything]).tolist()
    if whole - deaf <= deaf_tolerance:
        raise ValueError(
            f"the right answer's probability is {whole:.3f}, and {deaf:.3f} with all heads deaf: "
            "the audio does not matter to these items, so no head can be found by knock-out"
        )
    path = _eliminate(prob, everything, whole, deaf)
    kept = [heads for heads, p in path if p >= whole - kept_tolerance]
    readers = sorted(kept[-1] if kept else path[0][0])
    backups, _ = search_backups(
        lambda cuts: prob(cuts).tolist(), everything, readers, deaf + deaf_tolerance
    )
    return Found(readers, backups, path, whole, deaf)


def _all_but(everything: Sequence[Head], kept: Sequence[Head]) -> list[Head]:
    return [head for head in everything if head not in kept]


def _eliminate(
    prob: Cuts, everything: list[Head], whole: float, deaf: float
) -> list[tuple[list[Head], float]]:
    """The kept sets, from all candidates to one head."""
    missed = whole - prob([[head] for head in everything])
    alone = prob([_all_but(everything, [head]) for head in everything]) - deaf
    order = torch.maximum(missed, alone).argsort(descending=True).tolist()
    kept = [everything[i] for i in order[:N_CANDIDATES]]
    path = [(kept, float(prob([_all_but(everything, kept)])[0]))]
    while len(kept) > 1:
        smaller = [[other for other in kept if other != head] for head in kept]
        found = prob([_all_but(everything, heads) for heads in smaller])
        best = int(found.argmax())
        kept = smaller[best]
        path.append((kept, float(found[best])))
    return path


def main() -> None:
    """Search, print the path, and write `truth.json` if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help=f"a folder, or one of {', '.join(CHECKPOINTS)}")
    parser.add_argument("--n", type=int, default=N_ITEMS, help="captionless items")
    parser.add_argument("--seed", type=int, default=SEED, help="of the items")
    parser.add_argument("--write", action="store_true", help="write truth.json into the folder")
    options = parser.parse_args()
    name = options.checkpoint
    folder = named_folder(name)
    known = read_truth(folder) if (folder / "truth.json").exists() else None
    if options.write and known is not None and known.by_construction:
        parser.error(f"the readers of {folder} are known by construction; leave out --write")
    model = HookedAudioTransformer.from_pretrained(folder)
    found = find_readers(model, make_scene_items(options.n, options.seed))
    print(f"right answer's probability {found.whole:.3f}; all heads deaf {found.deaf:.3f}")
    for heads, p in found.path:
        print(f"  kept {p:.3f}  {_names(heads)}")
    print(f"readers: {_names(found.readers)}\nbackups: {_names(found.backups) or 'none'}")
    if known is not None:
        print(f"truth.json: {known!r}")
    if options.write:
        method = f"by knock-out on {options.n} captionless items of seed {options.seed}"
        truth = Truth(
            folder.name, model.cfg.n_layers, model.cfg.n_heads,
            tuple(found.readers), tuple(found.backups), (), (), method,
        )  # fmt: skip
        write_truth(truth, folder)


def _names(heads: Sequence[Head]) -> str:
    return " ".join(head_name(*head) for head in sorted(heads))


if __name__ == "__main__":
    main()
