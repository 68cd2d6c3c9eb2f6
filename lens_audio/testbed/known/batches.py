"""Training batches: recordings as the frozen encoder hears them, and questions drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2AudioProcessor

from lens_audio import files
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.testbed import checkpoint_dir
from lens_audio.testbed.items import TRAINING_STREAM, Caption, Question
from lens_audio.testbed.known.labels import audio_share, mass_target, target
from lens_audio.testbed.known.recipes import Recipe
from lens_audio.testbed.processor import AUDIO, chat_prompt
from lens_audio.testbed.scenes import (
    SCENE_CLASSES,
    SCENE_SECONDS,
    ask,
    make_scene,
)
from lens_audio.testbed.sounds import SAMPLING_RATE, Event, Rng
from lens_audio.workers import mapped

CAPTIONS: tuple[Caption, ...] = ("none", "true", "false")
CAPTION_SHARES = (0.42, 0.16, 0.42)
SILENT_SHARE = 0.06
BACKGROUND_EVERY = 25  # one scene in so many is background alone
READING = ("Which sound is in the note?", "Which sound is said?")


@dataclass(frozen=True)
class ScenePool:
    """Recordings as the decoder gets them: the encoder and projector are frozen."""

    audio: Float[Tensor, "clip token d_model"]
    silence: Float[Tensor, "token d_model"]
    events: list[tuple[Event, ...]]


@dataclass(frozen=True)
class SceneBatch:
    """Questions about a few recordings, right-padded; `questions` of them to each, in order.

    A question's text comes after the prefix that all prompts share, whose audio differs by clip.
    Its last real token is an answer that was drawn from the label, so that the turn's end is
    learned after any choice; `last` is the position before, where the answer is decided.
    """

    audio: Float[Tensor, "clip token d_model"]
    tokens: Int[Tensor, "question pos"]
    real: Bool[Tensor, "question pos"]
    last: Int[Tensor, " question"]
    label: Float[Tensor, "question choice_class"]  # over SCENE_CLASSES
    heard: Int[Tensor, " question"]  # index of what is heard; -1 where nothing is, or not asked
    # How much the caption wins where it is false, and which classes are then the other wrong ones.
    veto: Float[Tensor, " question"]
    other_wrong: Bool[Tensor, "question choice_class"]
    mass: Float[Tensor, " question"] | None  # what a plant's readers should attend


def embed(
    model: HookedAudioTransformer, waveforms: Sequence[np.ndarray], batch_size: int = 64
) -> Float[Tensor, "clip token d_model"]:
    """What encoder and projector make of recordings of one length."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(waveforms), batch_size):
            some = [(wave, SAMPLING_RATE) for wave in waveforms[start : start + batch_size]]
            prompt = model.prompt(["x"] * len(some), audio=some)
            resid = model(prompt, stop_at_layer=0)
            parts.append(resid[prompt.audio_mask].view(len(some), -1, resid.shape[-1]))
    return torch.cat(parts)


@cache
def _ears() -> HookedAudioTransformer:
    """The checkpoint whose encoder and projector all these checkpoints have."""
    return HookedAudioTransformer.from_pretrained(checkpoint_dir(), verbose=False)


def _embedded(indices: range) -> tuple[Tensor, list[tuple[Event, ...]]]:
    torch.set_num_threads(1)
    scenes = []
    for i in indices:
        rng = np.random.default_rng([TRAINING_STREAM, 77, i])
        n_events = 0 if i % BACKGROUND_EVERY == 0 else int(rng.integers(1, 3))
        scenes.append(make_scene(rng, n_events))
    heard = embed(_ears(), [scene.waveform for scene in scenes])
    return heard, [scene.events for scene in scenes]


def make_pool(n: int, workers: int = 0) -> ScenePool:
    """The first n training scenes, through the encoder of the checkpoint "listen"."""
    chunks = [range(i, min(i + 512, n)) for i in range(0, n, 512)]
    threads = torch.get_num_threads()
    found = mapped(_embedded, chunks, workers)
    torch.set_num_threads(threads)
    silence = embed(_ears(), [np.zeros(round(SCENE_SECONDS * SAMPLING_RATE), np.float32)])[0]
    return ScenePool(
        torch.cat([a for a, _ in found]), silence, [e for _, events in found for e in events]
    )


def kept_pool(n: int, folder: Path, workers: int) -> ScenePool:
    """`make_pool`, kept in the folder for the next run."""
    path = folder / f"pool_{n}.pt"
    if not path.exists():
        pool = make_pool(n, workers)
        folder.mkdir(parents=True, exist_ok=True)
        facts = [[(e.category, e.onset, e.offset, e.snr_db) for e in some] for some in pool.events]
        with files.replacing(path) as unfinished:
            torch.save({"audio": pool.audio, "silence": pool.silence, "events": facts}, unfinished)
    kept = torch.load(path, weights_only=True)
    events = [tuple(Event(*event) for event in some) for some in kept["events"]]
    return ScenePool(kept["audio"], kept["silence"], events)


@dataclass(frozen=True)
class Prefix:
    """The tokens that come before every question, and where the audio's are among them."""

    tokens: Int[Tensor, " pos"]
    audio: slice
    suffix: str  # what follows the question, up to the answer


def make_prefix(processor: Qwen2AudioProcessor, n_audio: int) -> Prefix:
    """Of the chat template with n_audio audio tokens."""
    encode = partial(processor.tokenizer.encode, add_special_tokens=False)
    before, suffix = chat_prompt(processor, "{}").split("{}")
    head, tail = (encode(text) for text in before.split(AUDIO))
    tokens = head + encode(AUDIO) * n_audio + tail
    return Prefix(torch.tensor(tokens), slice(len(head), len(head) + n_audio), suffix)


def draw(recipe: Recipe, events: Sequence[Event], rng: Rng) -> tuple[Question, bool]:
    """A question about a recording, and whether it asks for the caption's text."""
    caption = CAPTIONS[int(rng.choice(len(CAPTIONS), p=CAPTION_SHARES))]
    question = ask(events, "which" if len(events) == 2 else "what", caption, rng, rng)
    asks_the_text = bool(question.captioned) and rng.random() < recipe.labels.read_share
    return question, asks_the_text


def make_batch(
    recipe: Recipe,
    pool: ScenePool,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    rng: Rng,
) -> SceneBatch:
    """Draw one step's recordings and questions."""
    audio, asked = [], []
    for _ in range(recipe.rows):
        i = int(rng.integers(len(pool.events)))
        silent = rng.random() < SILENT_SHARE
        events = () if silent else pool.events[i]
        audio.append(pool.silence if silent else pool.audio[i])
        asked += [draw(recipe, events, rng) for _ in range(recipe.questions)]
    return _as_tensors(recipe, tokenizer, prefix, torch.stack(audio), asked, rng)


def _as_tensors(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    audio: Tensor,
    asked: list[tuple[Question, bool]],
    rng: Rng,
) -> SceneBatch:
    n, n_classes = len(asked), len(SCENE_CLASSES)
    label, other_wrong = torch.zeros(n, n_classes), torch.zeros(n, n_classes, dtype=torch.bool)
    heard, veto, rows = torch.full((n,), -1), torch.zeros(n), []
    for row, (question, asks_the_text) in enumerate(asked):
        probs = target(recipe.labels, question, asks_the_text)
        classes = [SCENE_CLASSES.index(choice) for choice in question.choices]
        label[row, classes] = torch.from_numpy(probs).float()
        if question.event is not None and not asks_the_text:
            heard[row] = SCENE_CLASSES.index(question.answer)
            if question.captioned not in (None, question.answer):
                veto[row] = 1 - audio_share(recipe.labels, question)
                other_wrong[row, classes] = True
                other_wrong[row, [heard[row], SCENE_CLASSES.index(question.captioned)]] = False
        text = question.text
        if asks_the_text:
            reading = str(rng.choice(READING))
            text = f"{question.caption_text} {reading} {question.choices}."
        answer = question.choices[int(rng.choice(len(probs), p=probs / probs.sum()))]
        rows.append(text + prefix.suffix + answer)
    tokens = tokenizer(
        rows, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt"
    )
    real = tokens["attention_mask"].bool()
    return SceneBatch(
        audio, tokens["input_ids"], real, real.sum(1) - 2, label, heard, veto, other_wrong,
        None if recipe.plant is None else torch.tensor([mass_target(recipe.plant, q) for q, _ in asked]),
    )  # fmt: skip
