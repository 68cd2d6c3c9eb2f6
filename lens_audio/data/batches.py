"""Items made into prompts, batch by batch: in order here, or ahead of the model by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.config import AudioModelConfig, AudioTiming
from lens_audio.data.answers import first_tokens
from lens_audio.data.items import AudioQAItem, Item
from lens_audio.data.pairs import Pair, pair
from lens_audio.data.wording import Wording
from lens_audio.inputs import AudioPrompt, build_prompt, load_audio
from lens_audio.inputs.audio import is_clip, stored_seconds
from lens_audio.inputs.loading import longest_clip
from lens_audio.progress_bar import ProgressBar
from lens_audio.workers import end_with_parent

TOKENS_A_SECOND, LETTERS_A_TOKEN = 25, 4  # about, whatever the model: of the items alone
TEMPLATE_TOKENS = 64  # at most, of the chat template around a question


def batches(
    model: HookedAudioTransformer,
    items: Sequence[Item],
    batch_size: int = 16,
    verbose: bool = True,
    what: str = "items",
) -> Iterator[tuple[Sequence[Item], AudioPrompt]]:
    """The items as left-padded prompts, `batch_size` at a time; a progress bar after one second.

    Raises:
        ValueError: for a batch size below 1.
    """
    check_batch_size(batch_size)
    with ProgressBar(
        total=len(items), desc=what, unit="item", disable=not verbose, delay=1, leave=False
    ) as bar:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            clips = [as_clip(item.audio) for item in batch]
            yield batch, model.prompt([item.question for item in batch], audio=clips)
            bar.update(len(batch))


def pair_batches(
    model: HookedAudioTransformer,
    pairs: Sequence[tuple[AudioQAItem, AudioQAItem]],
    batch_size: int = 16,
) -> Iterator[tuple[Pair, Int[Tensor, " pair"], Int[Tensor, " pair"]]]:
    """(clean, corrupted) items that ask one question of two recordings, as pairs of prompts, with the
    first tokens of the clean and of the corrupted answer.

    Raises:
        ValueError: for a batch size below 1.
    """
    sides = [batches(model, side, batch_size, verbose=False) for side in zip(*pairs, strict=True)]
    for (clean, prompt), (corrupted, other_prompt) in zip(*sides, strict=True):
        tokens = first_tokens(model, clean)
        rows = torch.arange(len(clean), device=tokens.device)
        answers = [[item.answer_index for item in side] for side in (clean, corrupted)]
        right, wrong = (tokens[rows, indices] for indices in answers)
        yield pair(prompt, other_prompt), right, wrong


def check_batch_size(batch_size: int) -> None:
    """Raises ValueError for a batch size below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """A batch as the model takes it. `prompt` has a row for each of `items`, in order."""

    items: list[AudioQAItem]
    prompt: AudioPrompt | None  # None where all failed
    failed: dict[str, str]  # why, by id


def plan(items: Sequence[AudioQAItem], batch_size: int) -> list[list[int]]:
    """Batches of indices: recordings of like length together, the longest first; after them, in
    batches of their own, the items without one.

    It depends on the items alone, so that it is the same when a run is resumed.
    """
    check_batch_size(batch_size)
    lengths = [
        TOKENS_A_SECOND * seconds(item) + len(item.question) / LETTERS_A_TOKEN for item in items
    ]
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    heard = [i for i in order if items[i].audio is not None]
    read = [i for i in order if items[i].audio is None]
    return [
        some[start : start + batch_size]
        for some in (heard, read)
        for start in range(0, len(some), batch_size)
    ]


class BatchDataset(Dataset):
    """Planned batches, each loaded when it is asked for; a worker process holds a copy."""

    def __init__(
        self,
        batches: Sequence[Sequence[AudioQAItem]],
        processor: Any,
        wording: Wording,
        max_seconds: float,
        n_ctx: int,
        max_new_tokens: int,
        cfg: AudioModelConfig | None = None,
    ) -> None:
        self.batches, self.processor = batches, processor
        self.wording, self.max_seconds = wording, max_seconds
        self.n_ctx, self.max_new_tokens = n_ctx, max_new_tokens
        self.cfg, self.timing = cfg, AudioTiming() if cfg is None else cfg.audio.timing

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> LoadedBatch:
        good: list[AudioQAItem] = []
        texts: list[str] = []
        waves: list[np.ndarray | None] = []
        failed: dict[str, str] = {}
        for item in self.batches[number]:
            try:
                wave = None if item.audio is None else self._wave(item)
                text = self.wording.ask(item.question, item.choices)
                self._check_text(item, text, 0 if wave is None else len(wave))
            except Exception as error:  # whatever is wrong with one item stops no other
                failed[item.id] = reason(item, error)
                continue
            good.append(item)
            texts.append(text)
            waves.append(wave)
        if not good:
            return LoadedBatch([], None, failed)
        try:
            prompt = self._prompt(texts, waves)
        except ValueError:  # one of them: found by asking each alone
            return self._without_culprits(good, texts, waves, failed)
        return LoadedBatch(good, prompt, failed)

    def _prompt(self, texts: list[str], waves: list[np.ndarray | None]) -> AudioPrompt:
        rate = self.processor.feature_extractor.sampling_rate
        prompt = build_prompt(self.processor, texts, waves, sampling_rate=rate, cfg=self.cfg)
        # The processor stays behind: to send a tokenizer with every batch would cost more than all.
        return replace(prompt, processor=None, tokenizer=None)

    def _without_culprits(
        self,
        items: list[AudioQAItem],
        texts: list[str],
        waves: list[np.ndarray | None],
        failed: dict[str, str],
    ) -> LoadedBatch:
        good = []
        for row, item in enumerate(items):
            try:
                self._prompt([texts[row]], [waves[row]])
                good.append(row)
            except ValueError as error:
                failed[item.id] = reason(item, error)
        if not good:
            return LoadedBatch([], None, failed)
        prompt = self._prompt([texts[row] for row in good], [waves[row] for row in good])
        return LoadedBatch([items[row] for row in good], prompt, failed)

    def _wave(self, item: AudioQAItem) -> np.ndarray:
        extractor = self.processor.feature_extractor
        return load_audio(
            as_clip(item.audio),
            target_rate=extractor.sampling_rate,
            limit_seconds=longest_clip(self.processor, self.timing),
            max_seconds=self.max_seconds,
            hop_length=extractor.hop_length,
            timing=self.timing,
        )

    def _check_text(self, item: AudioQAItem, text: str, n_samples: int) -> None:
        tokenizer, extractor = self.processor.tokenizer, self.processor.feature_extractor
        added = tokenizer.added_tokens_decoder.values()
        for token in (str(token) for token in added if token.special):
            if token in text:
                raise ValueError(f"its text holds {token}, which would end or change the prompt")
        answers = [self.wording.answer(choice, item.choices) for choice in item.choices]
        asked, *said = map(len, tokenizer([text, *answers], add_special_tokens=False)["input_ids"])
        heard = n_samples / (self.timing.mel_frames_per_token * extractor.hop_length)
        needed = int(asked + heard + max(self.max_new_tokens, *said)) + TEMPLATE_TOKENS
        if needed > self.n_ctx:
            raise ValueError(f"it needs {needed} tokens; the model's context is {self.n_ctx}")


def reason(item: AudioQAItem, error: BaseException) -> str:
    """An error in one line, without the folder that the recording lies in."""
    text = " ".join(str(error).split()) or type(error).__name__
    is_path = isinstance(item.audio, Path)
    return text.replace(str(item.audio), item.audio.name) if is_path else text


def load(batches: BatchDataset, workers: int) -> Iterator[LoadedBatch]:
    """The batches in order, loaded ahead by worker processes; without any, as they are asked for."""
    ahead: dict[str, Any] = {"prefetch_factor": 2} if workers and len(batches) else {}
    workers = min(workers, len(batches))
    tools = {"processor": batches.processor, "tokenizer": batches.processor.tokenizer}
    ahead["worker_init_fn"] = end_with_parent
    for loaded in DataLoader(batches, batch_size=None, num_workers=workers, **ahead):
        prompt = None if loaded.prompt is None else replace(loaded.prompt, **tools)
        yield replace(loaded, prompt=prompt)


def rows(prompt: AudioPrompt, start: int, stop: int) -> AudioPrompt:
    """Some rows of a loaded prompt, as a batch of their own."""
    assert prompt.texts is not None
    clips = slice(prompt.clips_of(start).start, prompt.clips_of(stop - 1).stop)
    return prompt.remade(prompt.texts[start:stop], (prompt.waveforms or [])[clips])


def seconds(item: AudioQAItem) -> float:
    """How long the recording lasts by its header; 0 without one, or for one that cannot be read."""
    try:
        return stored_seconds(as_clip(item.audio))
    except (OSError, TypeError, ValueError):
        return 0.0


def as_clip(audio: Any) -> Any:
    """What `load_audio` takes: a stored file's bytes are read."""
    return audio.read() if hasattr(audio, "read") and not is_clip(audio) else audio
