"""The testbed as a benchmark: synthesised sounds, with captions that are right, wrong or absent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lens_audio.data.items import AudioQAItem
from lens_audio.testbed.items import Caption, Item, make_items, options


@dataclass(frozen=True, eq=False)
class SyntheticQA:
    """Held-out items; `n` of each caption condition, other recordings in each."""

    items: Sequence[AudioQAItem]
    version: str
    name: str = "testbed"
    groups: tuple[str, ...] = ("condition", "category")
    prompt: str = "plain"  # what the embedded checkpoint was trained on

    @classmethod
    def make(cls, n: int = 200, seed: int = 5001) -> "SyntheticQA":
        """Synthesise the items: a pure function of `n` and `seed`."""
        captions: tuple[Caption, ...] = ("none", "true", "false")
        items = [
            _item(item)
            for number, caption in enumerate(captions)
            for item in make_items(n, 10 * seed + number, caption)
        ]
        return cls(items, f"{n} items a caption, seed {seed}")

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """The very choice and nothing else."""
        return prediction == answer

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """What the item is, with the prediction."""
        return {**item.record, "prediction": prediction}


def _item(item: Item) -> AudioQAItem:
    question = item.question.removesuffix(options(item.choices)).rstrip()
    record = {
        "id": item.id, "question": question, "choices": item.choices, "answer": item.answer,
        **item.facts,
    }  # fmt: skip
    return AudioQAItem(
        item.id, question, tuple(item.choices), item.answer, item.audio, item.facts, record
    )
