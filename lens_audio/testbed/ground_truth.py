"""What is known of a checkpoint's heads: which read the audio, and which only look as if they did."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lens_audio import files
from lens_audio.sites import Head, every_head, head_name
from lens_audio.testbed import KNOWN, checkpoint_dir, is_embedded

BY_CONSTRUCTION = "by construction"


class LabelledEdge(NamedTuple):
    """The edge from the audio into a head's keys or values."""

    head: Head
    input: str  # "k" or "v"
    is_reader: bool


@dataclass(frozen=True)
class Truth:
    """The true readers of a checkpoint, and what is left out when methods are scored.

    A *reader* is a head through whose attention to the audio the answer depends on the sound. A
    *backup* begins to read when the readers are deaf, a *decoy* attends to the audio and writes
    nothing of it. On conflict items the heads of `veto_layers` act on what readers heard, so
    methods that score effects may rightly find them: they are unlabelled there.
    """

    checkpoint: str
    n_layers: int
    n_heads: int
    readers: tuple[Head, ...]
    backups: tuple[Head, ...]
    decoys: tuple[Head, ...]
    veto_layers: tuple[int, ...]
    known_by: str  # BY_CONSTRUCTION, or by which knock-out on which items

    def __repr__(self) -> str:
        return f"Truth({self.checkpoint}: {self.named_heads}; known {self.known_by})"

    @property
    def named_heads(self) -> str:
        """Those that are known, such as "readers L3H1 L4H2; decoys L1H2"."""
        named = {"readers": self.readers, "backups": self.backups, "decoys": self.decoys}
        return "; ".join(
            f"{what} {' '.join(head_name(*head) for head in heads)}"
            for what, heads in named.items()
            if heads
        )

    @property
    def by_construction(self) -> bool:
        """Whether the readers were put in."""
        return self.known_by == BY_CONSTRUCTION

    def labels(self, condition: str = "captionless") -> dict[Head, bool]:
        """Of each labelled head whether it is a true reader.

        Decoys read nothing, so they are labelled False: a method that finds them is fooled. Backups
        are left out, and on "conflict" items the veto's layers, but for readers in them.
        """
        left_out = set(self.backups)
        if condition == "conflict":
            left_out |= {(l, h) for l in self.veto_layers for h in range(self.n_heads)}
        return {
            head: head in self.readers
            for head in every_head(self.n_layers, self.n_heads)
            if head in self.readers or head not in left_out
        }

    def edges(self) -> list[LabelledEdge]:
        """The labelled edges: the audio into readers' keys and values, and into those of every head
        that is neither reader nor backup nor decoy. All other edges of the graph are unlabelled.
        """
        left_out = {*self.backups, *self.decoys}
        return [
            LabelledEdge(head, letter, head in self.readers)
            for head in every_head(self.n_layers, self.n_heads)
            if head not in left_out
            for letter in ("k", "v")
        ]

    def to_dict(self) -> dict[str, Any]:
        """As `truth.json` beside the weights holds it."""
        return {
            name: list(map(list, value)) if name in ("readers", "backups", "decoys") else value
            for name, value in vars(self).items()
        }


def truth(name: str) -> Truth:
    """What is known of the checkpoint "emergent", "planted" or "graded".

    Raises:
        ValueError: for another name; of "listen" no truth is known.
    """
    if name not in KNOWN:
        raise ValueError(f"no truth is known of {name!r}; choose one of {', '.join(KNOWN)}")
    return read_truth(checkpoint_dir(name))


def named_folder(checkpoint: str) -> Path:
    """The folder at a path, or of the embedded checkpoint of that name if nothing is there."""
    return checkpoint_dir(checkpoint) if is_embedded(checkpoint) else Path(checkpoint)


def read_truth(folder: Path) -> Truth:
    """What `truth.json` in a checkpoint's folder tells.

    Raises:
        ValueError: for a folder without it.
    """
    path = folder / "truth.json"
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; python -m lens_audio.testbed.find_truth {folder} --write "
            "finds the readers"
        )
    facts = json.loads(path.read_text(encoding="utf-8"))
    for heads in ("readers", "backups", "decoys"):
        facts[heads] = tuple((layer, head) for layer, head in facts[heads])
    return Truth(**facts | {"veto_layers": tuple(facts["veto_layers"])})


def write_truth(truth: Truth, folder: Path) -> None:
    """Write `truth.json`."""
    files.write_text(folder / "truth.json", json.dumps(truth.to_dict(), indent=1) + "\n")
