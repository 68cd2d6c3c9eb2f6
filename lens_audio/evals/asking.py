"""What a model answers to a batch of items under any runs, read and judged as the benchmark does."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.listening import listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.answers import option_log_probs
from lens_audio.data.items import AudioQAItem
from lens_audio.data.wording import Wording
from lens_audio.evals.answering import generate, steered_log_probs
from lens_audio.evals.extraction import extract, is_closed
from lens_audio.evals.items import AudioQADataset
from lens_audio.evals.prefill import Prefilled, prefill
from lens_audio.evals.runs import Run, silenced, under
from lens_audio.inputs import AudioPrompt
from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.audio_silence.settings import steps
from lens_audio.steering.audio_silence.silent_prefixes import Prefill, SilentPrefixes

ANSWER_BY = ("generation", "log-probability")
DIGITS = 6  # of recorded numbers: enough to use, few enough to hide the noise of float sums

Answer = dict[str, Any]  # text, prediction; correct where the answer is known; log_probs


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How items are asked, and how answers are read. All of it is part of what an evaluation is."""

    wording: Wording
    answer_by: str = "generation"
    max_new_tokens: int = 32
    seed: int = 0  # of the intervals and of random controls
    batch_size: int = 8
    max_seconds: float | None = None  # of a recording; None is what the model hears

    def __post_init__(self) -> None:
        if self.answer_by not in ANSWER_BY:
            raise ValueError(f"answer_by must be one of {ANSWER_BY}, not {self.answer_by!r}")
        for name, value in (
            ("max_new_tokens", self.max_new_tokens),
            ("batch_size", self.batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            raise ValueError(f"max_seconds must be above 0 and finite, not {self.max_seconds}")

    def facts(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return asdict(self)


class Asker:
    """Asks a model the items of a benchmark under runs.

    The model as it is, audio-silence steerings and silence share one forward of each prompt (see
    `evals.prefill`); every other run reads the prompt itself, with what it does attached. Without
    audio the first three are one and the same.
    """

    def __init__(
        self, model: HookedAudioTransformer, dataset: AudioQADataset, asking: Asking
    ) -> None:
        self.model, self.dataset, self.asking = model, dataset, asking
        self.prefixes = SilentPrefixes()

    def answers(
        self, runs: Mapping[str, Run], prompt: AudioPrompt, items: Sequence[AudioQAItem]
    ) -> tuple[Prefilled, dict[str, list[Answer]]]:
        """What was read of a batch, and each run's answer to each row.

        Args:
            prompt: with a clip in every row, or in none.
        """
        if prompt.mel is None:
            runs = {name: _without_audio(run) for name, run in runs.items()}
        steerings = {n: run for n, run in runs.items() if isinstance(run, AudioSilenceSteering)}
        quiet = any(run is silenced for run in runs.values())
        found = prefill(self.model, prompt, layers(steerings.values()), self.prefixes, quiet)
        nothing = torch.zeros_like(found.prefill.final)
        plain = [name for name, run in runs.items() if run is None]
        added = [*(nothing for _ in plain), *(self.added(s, found) for s in steerings.values())]
        answers: dict[str, list[Answer]] = {}
        if added:
            said = self.steered(found.prefill, torch.stack(added), items)
            answers = dict(zip([*plain, *steerings], said, strict=True))
        for name, run in runs.items():
            if run is silenced and found.silent_prefill is not None:
                answers[name] = self.steered(found.silent_prefill, nothing[None], items)[0]
            elif name not in answers:
                answers[name] = self.attached(run, prompt, items)
        return found, {name: answers[name] for name in runs}

    def added(
        self, steering: AudioSilenceSteering, found: Prefilled
    ) -> Float[Tensor, "row d_model"]:
        """What this steering adds to each row's final representation."""
        s, final = found.direction(steering.layers), found.prefill.final
        if steering.direction is not None:
            s = steering.direction.to(final).expand(len(final), -1)
        score = listening_score(found.mass, steering.heads)
        model = self.model
        return steps(steering, s, score, lambda: model.logits_of(final[:, None])[:, 0])

    def steered(
        self,
        state: Prefill,
        added: Float[Tensor, "run row d_model"],
        items: Sequence[AudioQAItem],
    ) -> list[list[Answer]]:
        """The answer to each row with each of these added to its final representation."""
        if self.asking.answer_by == "generation":
            most = self.asking.max_new_tokens
            texts = generate(self.model, state, added, most, is_closed)
            return [self._extracted(items, run) for run in texts]
        scores = steered_log_probs(self.model, state, added, self._options(items))
        return [self._likeliest(items, run) for run in scores]

    def attached(self, run: Run, prompt: AudioPrompt, items: Sequence[AudioQAItem]) -> list[Answer]:
        """The answer to each row while the run is attached to the model."""
        with under(run, self.model, prompt) as asked:
            if self.asking.answer_by == "generation":
                return self._extracted(items, self._generated(asked))
            options = self._options(items)
            scores = option_log_probs(self.model, asked, options).cpu()
        rows = [row[: len(listed)].tolist() for row, listed in zip(scores, options, strict=True)]
        return self._likeliest(items, rows)

    def judged(self, item: AudioQAItem, text: str, prediction: str) -> Answer:
        """An answer, and whether it is right where that is known."""
        answer: Answer = {"text": text, "prediction": prediction}
        if item.answer is not None:
            answer["correct"] = bool(self.dataset.matches(prediction, item.answer, item.choices))
        return answer

    def _generated(self, prompt: AudioPrompt) -> list[str]:
        """The greedy answers; each ends where it is closed."""
        said = [""] * len(prompt)
        with closing(self.model.generate_stream(prompt, self.asking.max_new_tokens)) as stream:  # type: ignore[type-var]
            for pieces in stream:
                for row, piece in enumerate([pieces] if isinstance(pieces, str) else pieces):
                    if not is_closed(said[row]):
                        said[row] += piece
                if all(map(is_closed, said)):
                    break
        return [text.strip() for text in said]

    def _extracted(self, items: Sequence[AudioQAItem], texts: Sequence[str]) -> list[Answer]:
        return [self.judged(item, t, extract(t)) for item, t in zip(items, texts, strict=True)]

    def _options(self, items: Sequence[AudioQAItem]) -> list[list[list[int]]]:
        """Each row's different choices, as tokens of the answers that name them."""
        wording, encode = self.asking.wording, self.model.required_tokenizer.encode
        return [
            [
                encode(wording.answer(choice, item.choices), add_special_tokens=False)
                for choice in _choices(item)
            ]
            for item in items
        ]

    def _likeliest(
        self, items: Sequence[AudioQAItem], scores: Sequence[Sequence[float]]
    ) -> list[Answer]:
        answers = []
        for item, row in zip(items, scores, strict=True):
            choices = _choices(item)
            best = choices[int(np.argmax(row))]
            log_probs = dict(zip(choices, rounded(list(row)), strict=True))
            answers.append({**self.judged(item, best, best), "log_probs": log_probs})
        return answers


def layers(steerings: Iterable[AudioSilenceSteering]) -> list[int]:
    """The layers whose residual stream any of these needs, ascending."""
    return sorted({layer for steering in steerings for layer in steering.layers})


def rounded(value: Any) -> Any:
    """A number, or nested lists of them, with `DIGITS` significant digits."""
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{float(value):.{DIGITS}g}")


def _without_audio(run: Run) -> Run:
    """What a run is to prompts without audio: there s is 0, and there is nothing to silence."""
    return None if run is silenced or isinstance(run, AudioSilenceSteering) else run


def _choices(item: AudioQAItem) -> list[str]:
    return list(dict.fromkeys(item.choices))
