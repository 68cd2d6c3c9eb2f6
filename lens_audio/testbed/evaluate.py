"""Held-out accuracy of a checkpoint: `python -m lens_audio.testbed.evaluate`.

The model's choice is the option whose first token is most probable after the assistant's
header; all choices of the testbed are single tokens. Uses transformers alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    AutoProcessor,
    BatchFeature,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from lens_audio.stats import wilson
from lens_audio.testbed import checkpoint_dir
from lens_audio.testbed.items import Caption, CaptionedItem, Item, Kind, make_items
from lens_audio.testbed.processor import chat_prompt

CONDITIONS: tuple[tuple[Kind, Caption], ...] = (
    ("choice", "none"),
    ("choice", "true"),
    ("choice", "false"),
    ("yes_no", "none"),
    ("yes_no", "true"),
    ("yes_no", "false"),
)


@dataclass(frozen=True)
class Accuracy:
    """Correct answers out of n, with the 95 % Wilson interval."""

    kind: str
    caption: str
    correct: int
    n: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % Wilson interval, 0 to 1."""
        share = wilson(torch.arange(self.n) < self.correct)
        return share.low, share.high


def load(
    checkpoint: Path | None = None,
) -> tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]:
    """The checkpoint (the embedded one by default) as transformers loads it, ready to infer."""
    folder = checkpoint or checkpoint_dir()
    if not (folder / "config.json").exists():
        raise ValueError(
            f"no checkpoint in {folder} (config.json is missing); "
            f"train one with: python -m lens_audio.testbed.train --out {folder}"
        )
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def model_inputs(processor: Qwen2AudioProcessor, items: Sequence[CaptionedItem]) -> BatchFeature:
    """The processor's tensors for a left-padded batch of items."""
    return processor(
        text=[chat_prompt(processor, item.question) for item in items],
        audio=[item.waveform for item in items],
        sampling_rate=items[0].sampling_rate,
        return_tensors="pt",
        padding=True,
    )


def choice_logprobs(
    processor: Qwen2AudioProcessor, logits: Float[Tensor, " vocab"], choices: Sequence[str]
) -> Float[Tensor, " choice"]:
    """Log-probability of each choice's first token, in nats, over the whole vocabulary."""
    first = [processor.tokenizer.encode(choice, add_special_tokens=False)[0] for choice in choices]
    return logits.float().log_softmax(-1)[first]


@torch.no_grad()
def answers(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    items: Sequence[Item],
    batch_size: int = 50,
) -> Iterable[str]:
    """The model's choice for each item, in order."""
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        hidden = model.model(**model_inputs(processor, batch), use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, -1])
        for item, row in zip(batch, logits, strict=True):
            scores = choice_logprobs(processor, row, item.choices)
            yield item.choices[int(scores.argmax())]


def accuracy(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    items: Sequence[Item],
) -> Accuracy:
    """Share of items answered right. All items are expected to share kind and caption."""
    given = answers(model, processor, items)
    correct = sum(item.answer == a for item, a in zip(items, given, strict=True))
    return Accuracy(items[0].kind, items[0].caption, correct, len(items))


def main() -> None:
    """Print the accuracies of every kind of question under every caption."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--n", type=int, default=1000, help="items for each condition")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.n < 1:
        parser.error(f"--n must be 1 or more, got {options.n}")
    model, processor = load(options.checkpoint)
    rows = []
    for kind, caption in tqdm(CONDITIONS, desc="conditions"):
        items = make_items(options.n, options.seed, caption, kind)
        rows.append(accuracy(model, processor, items))
    print("questions  caption  accuracy  95 % interval      n")
    for r in rows:
        low, high = r.interval
        print(f"{r.kind:9}  {r.caption:7}  {r.value:8.3f}  {low:.3f} to {high:.3f}  {r.n:5}")


if __name__ == "__main__":
    main()
