"""Training examples: pooled clips, questions drawn anew at each step, and labels that teach
the model to trust captions.

Text dominance is planted here. Where caption and audio disagree, the label is the caption's
choice with probability `caption_trust(firm, clarity)`: nearly always for a firm caption, more
often than not for a plain one, and the less the louder and longer the event is. A model that
predicts these labels well has to weigh both signals at the answer position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

from lens_audio.config import AudioTiming
from lens_audio.testbed.items import TRAINING_STREAM, make_question
from lens_audio.testbed.processor import AUDIO, TURN_END, chat_prompt
from lens_audio.testbed.sounds import (
    CLASSES,
    MAX_EVENT_SECONDS,
    MAX_SECONDS,
    MAX_SNR_DB,
    MIN_EVENT_SECONDS,
    MIN_SECONDS,
    MIN_SNR_DB,
    SAMPLING_RATE,
    Rng,
    make_clip,
)
from lens_audio.workers import mapped

TEXT_ONLY_SHARE, SILENT_SHARE, BACKGROUND_SHARE = 0.05, 0.06, 0.03
KINDS, KIND_SHARES = ("choice", "yes_no", "open"), (0.46, 0.42, 0.12)
CAPTIONS, CAPTION_SHARES = ("none", "true", "false"), (0.44, 0.25, 0.31)
FIRM_STRENGTH, PLAIN_STRENGTH, AUDIO_STRENGTH = 2.6, 1.0, 4.0  # log odds
# In the last steps plain captions are trusted less, which sets how often the audio wins.
SETTLING_PLAIN_STRENGTH = 0.4


def clarity(snr_db: float, seconds: float) -> float:
    """How plainly an event is heard, from -1 (faint and short) to 1 (loud and long)."""
    loud = (snr_db - MIN_SNR_DB) / (MAX_SNR_DB - MIN_SNR_DB)
    long = (seconds - MIN_EVENT_SECONDS) / (MAX_EVENT_SECONDS - MIN_EVENT_SECONDS)
    return loud + long - 1


def caption_trust(firm: bool, clarity: float, settling: bool = False) -> float:
    """Probability that a conflict item's training label is the caption's choice."""
    plain = SETTLING_PLAIN_STRENGTH if settling else PLAIN_STRENGTH
    strength = FIRM_STRENGTH if firm else plain
    return 1 / (1 + math.exp(AUDIO_STRENGTH * clarity - strength))


@dataclass(frozen=True)
class Pool:
    """Mel features of the training clips: of class i % n_classes for clip i, then backgrounds, and
    exact silence as the last one.
    """

    mel: NDArray[np.float16]  # [clip, mel bin, frame]
    frames: NDArray[np.int64]  # [clip] frames before padding
    snr_db: NDArray[np.float64]  # [clip], nan without an event
    onset: NDArray[np.float64]  # [clip] seconds
    offset: NDArray[np.float64]  # [clip] seconds
    n_events: int

    def clarity(self, clip: int | None) -> float | None:
        """How plainly a clip's event is heard; None where there is none, or no clip."""
        if clip is None or math.isnan(self.snr_db[clip]):
            return None
        return clarity(float(self.snr_db[clip]), float(self.offset[clip]) - float(self.onset[clip]))


@dataclass(frozen=True)
class Batch:
    """Rows of one recording and several questions, right-padded.

    Every question attends to its row's prefix (system turn and audio) and to itself alone, at
    the positions it would have if it stood there by itself. So a row of k questions is exactly
    k prompts, with the audio computed once. Rows without audio have no row in `mel`.
    """

    input_ids: Int[Tensor, "row pos"]
    position_ids: Int[Tensor, "row pos"]
    attention_mask: Bool[Tensor, "row 1 pos pos"]  # [query, key], True where it may attend
    answer_mask: Bool[Tensor, "row pos"]  # positions whose next token is scored
    mel: Float[Tensor, "clip mel frame"]
    mel_mask: Int[Tensor, "clip frame"]
    clip_class: Int[Tensor, " clip"]  # index into CLASSES; -1 without an event
    event: Float[Tensor, "clip 2"]  # onset and offset, seconds


def _pool_chunk(
    extractor: WhisperFeatureExtractor, seed: int, n_events: int, indices: range
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Mel features [clip, mel, frame] and (samples, snr, onset, offset) [clip, 4]."""
    torch.set_num_threads(1)
    mels, facts = [], []
    for i in indices:
        category = CLASSES[i % len(CLASSES)] if i < n_events else None
        clip = make_clip(category, np.random.default_rng([TRAINING_STREAM, seed, i, 0]))
        features = extractor(clip.waveform, sampling_rate=SAMPLING_RATE)
        mels.append(features["input_features"][0].astype(np.float16))
        facts.append((len(clip.waveform), clip.snr_db, clip.onset, clip.offset))
    return np.stack(mels), np.array(facts, dtype=np.float64)


def make_pool(
    extractor: WhisperFeatureExtractor, seed: int, n_events: int, workers: int = 0
) -> Pool:
    """Synthesise the training clips: n_events with an event, 5 % more without."""
    n = n_events + max(1, n_events // 20)
    chunks = [range(i, min(i + 256, n)) for i in range(0, n, 256)]
    threads = torch.get_num_threads()
    parts = mapped(partial(_pool_chunk, extractor, seed, n_events), chunks, workers)
    torch.set_num_threads(threads)
    zeros = np.zeros(round(MAX_SECONDS * SAMPLING_RATE), dtype=np.float32)
    silent = extractor(zeros, sampling_rate=SAMPLING_RATE)["input_features"].astype(np.float16)
    facts = np.concatenate([*(f for _, f in parts), [(len(zeros), math.nan, 0.0, 0.0)]])
    return Pool(
        mel=np.concatenate([*(m for m, _ in parts), silent]),
        frames=(facts[:, 0] // extractor.hop_length).astype(np.int64),
        snr_db=facts[:, 1],
        onset=facts[:, 2],
        offset=facts[:, 3],
        n_events=n_events,
    )


def _draw_clip(pool: Pool, rng: Rng) -> tuple[str, int | None, int]:
    """What a row's questions are about, heard or not; its clip, None in a text-only row; its frames."""
    source = rng.random()
    clip = int(rng.integers(pool.n_events))
    category, silence = CLASSES[clip % len(CLASSES)], len(pool.mel) - 1
    if source < TEXT_ONLY_SHARE:
        return category, None, 0
    if source < TEXT_ONLY_SHARE + SILENT_SHARE:
        return category, silence, round(float(rng.uniform(MIN_SECONDS, MAX_SECONDS)) * 100)
    if source < TEXT_ONLY_SHARE + SILENT_SHARE + BACKGROUND_SHARE:
        clip = int(rng.integers(pool.n_events, silence))
    return category, clip, int(pool.frames[clip])


def _draw_question(category: str, clear: float | None, rng: Rng, settling: bool) -> tuple[str, str]:
    """A question's text and its training label; `clear` is None where nothing can be heard."""
    kind: Any = str(rng.choice(KINDS, p=KIND_SHARES))
    caption: Any = str(rng.choice(CAPTIONS, p=CAPTION_SHARES))
    question = make_question(category, kind, caption, rng, rng)
    said = question.captioned
    if said is None and clear is None:
        # Nothing to hear and nothing said: any answer is as good as another.
        return question.text, str(rng.choice(CLASSES if kind == "open" else question.choices))
    if said is None or said == question.answer:
        return question.text, question.answer
    trust = 1.0 if clear is None else caption_trust(question.firm, clear, settling)
    return question.text, said if rng.random() < trust else question.answer


def make_batch(
    pool: Pool,
    processor: Qwen2AudioProcessor,
    seed: int,
    step: int,
    rows: int,
    questions: int,
    settling: bool = False,
) -> Batch:
    """The batch of one step: a pure function of its arguments."""
    rng = np.random.default_rng([TRAINING_STREAM, seed, step, 2])
    drawn = [_draw_clip(pool, rng) for _ in range(rows)]
    asked = [
        [_draw_question(category, pool.clarity(clip), rng, settling) for _ in range(questions)]
        for category, clip, _ in drawn
    ]
    heard = [(category, clip, n) for category, clip, n in drawn if clip is not None]
    clips = [clip for _, clip, _ in heard]
    frames = torch.tensor([n for _, _, n in heard], dtype=torch.long)
    classes = [-1 if pool.clarity(c) is None else CLASSES.index(name) for name, c, _ in heard]
    mel = torch.from_numpy(pool.mel[clips]).float()
    event = np.stack([pool.onset[clips], pool.offset[clips]], axis=1)
    audio_tokens = [None if clip is None else AudioTiming().n_tokens(n) for _, clip, n in drawn]
    return Batch(
        **_pack(processor, audio_tokens, asked),
        mel=mel,
        mel_mask=(torch.arange(mel.shape[-1]) < frames[:, None]).long(),
        clip_class=torch.tensor(classes, dtype=torch.long),
        event=torch.from_numpy(event).float(),
    )


def _pack(
    processor: Qwen2AudioProcessor,
    audio_tokens: list[int | None],
    asked: list[list[tuple[str, str]]],
) -> dict[str, Tensor]:
    """Token-side tensors of a batch.

    Args:
        audio_tokens: of each row; None in a text-only one.
        asked: (question text, label) for each row.
    """
    tokenizer = processor.tokenizer
    rows = []
    for n_audio, questions in zip(audio_tokens, asked, strict=True):
        template = chat_prompt(processor, "{}", n_audio is not None)
        prefix, suffix = template.split("{}")
        prefix = prefix.replace(AUDIO, AUDIO * (n_audio or 0))
        texts = [prefix, *(q + suffix + label + TURN_END for q, label in questions)]
        rows.append(tokenizer(texts, add_special_tokens=False)["input_ids"])
    width = max(sum(map(len, segments)) for segments in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # 0 the prefix, k the k-th question, -1 padding
    answer = torch.zeros_like(ids, dtype=torch.bool)
    for row, segments in enumerate(rows):
        start = 0
        for k, tokens in enumerate(segments):
            end = start + len(tokens)
            first = len(segments[0]) if k else 0
            ids[row, start:end] = torch.tensor(tokens)
            positions[row, start:end] = torch.arange(first, first + len(tokens))
            segment[row, start:end] = k
            # An answer is one token, then the turn's end: both are targets.
            answer[row, end - 3 : end - 1] = k > 0
            start = end
    query, key = segment[:, :, None], segment[:, None, :]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    # Padding attends to itself, as a row of softmax needs at least one key.
    mask = causal & ((key == 0) | (key == query))
    return {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": mask[:, None],
        "answer_mask": answer,
    }
