"""Scenes of the testbed as a benchmark: clips with one or two sounds, each under every caption."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lens_audio.data.items import AudioQAItem
from lens_audio.evals.metrics import Ratio, Row, share
from lens_audio.testbed.scenes import Caption, SceneItem, SceneKind, make_scene_items

CAPTIONS: tuple[Caption, ...] = ("none", "true", "false")
TRAINED: tuple[SceneKind, ...] = (
    "what",
    "which",
)  # the kinds that the checkpoints with a known answer were trained on
# The caption of a prompt: the sentence before the question, behind the audio.
CAPTION = re.compile(r"(?<=<\|audio_eos\|>\n)[^.?]*\. (?=[^.?]*\?)")


@dataclass(frozen=True, eq=False)
class SceneQA:
    """Held-out items of `testbed.make_scene_items`: the same clips and questions under each caption."""

    items: Sequence[SceneItem]
    version: str
    name: str = "testbed scenes"
    groups: tuple[str, ...] = ("condition", "kind")
    prompt: str = "verbatim"  # a scene's question names its choices
    rule: str = "An answer is right if it is the very choice."

    @classmethod
    def make(
        cls, n: int = 200, seed: int = 5001, kinds: Sequence[SceneKind] = TRAINED
    ) -> "SceneQA":
        """Synthesise the items: `n` clips of each kind, asked with no, a true and a false caption.

        Raises:
            ValueError: for a kind that there is not.
        """
        unknown = [kind for kind in kinds if kind not in get_args(SceneKind)]
        if unknown:
            raise ValueError(f"no kind {unknown[0]!r}; there are {', '.join(get_args(SceneKind))}")
        items = [
            item
            for kind in kinds
            for caption in CAPTIONS
            for item in make_scene_items(n, seed, caption, kind)
        ]
        return cls(items, f"{n} clips of each of {', '.join(kinds)}, seed {seed}")

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """The very choice and nothing else."""
        return prediction == answer

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """What the item is, with the prediction."""
        told = {"id": item.id, "question": item.question, "choices": list(item.choices)}
        return {**told, "answer": item.answer, **item.facts, "prediction": prediction}

    def unit(self, item: AudioQAItem) -> str:
        """The clip with its question, whatever the caption."""
        return item.id.rpartition("-")[0]

    def metrics(self, rows: Sequence[Row]) -> dict[str, Ratio]:
        """Accuracy under each caption, and how often a false one is followed.

        What a false caption names is not in the recording: "follows a false caption" is the share of
        items on which a sound that the question suggests and that is absent is affirmed.
        """
        conditions = dict.fromkeys(row.item.condition for row in rows)
        right = [row.correct for row in rows]
        found = {
            f"accuracy, {name}": share(right, [row.item.condition == name for row in rows])
            for name in conditions
        }
        conflict = [row.item.condition == "conflict" for row in rows]
        followed = [row.prediction == _captioned(row.item) for row in rows]
        if any(conflict):
            found["follows a false caption"] = share(followed, conflict)
        return found


def _captioned(item: AudioQAItem) -> str | None:
    return item.captioned if isinstance(item, SceneItem) else None
