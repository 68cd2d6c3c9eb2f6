"""The steering: what is added and how much of it, while attached to a model, and on disk."""

import os
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.analysis.attention import audio_attention, audio_mass
from lens_audio.analysis.listening import Specialists, listening_score
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import at_positions
from lens_audio.fingerprint import as_json, versions
from lens_audio.inputs import AudioPrompt
from lens_audio.model.hook_point import ForwardInfo
from lens_audio.sites import head_name, last_positions
from lens_audio.steering.audio_silence import on_transformers
from lens_audio.steering.audio_silence.direction import (
    SilenceEmbeddings,
    direction,
    residuals_of_both,
)
from lens_audio.steering.audio_silence.settings import AudioSilenceSettings, added, steps
from lens_audio.steering.knockout import random_heads
from lens_audio.steering.storage import damage_named, load, model_facts, save

KIND = "AudioSilenceSteering"


@dataclass(frozen=True, eq=False)
class AudioSilenceSteering(AudioSilenceSettings):
    """What to add, and how much of it.

    Args:
        heads: the specialists, as (layer, head) pairs; only their layers matter to s.
        beta: how much of s is added; 0 changes nothing.
        adaptive: "constant"; "listening", beta · (1 - listening score), so that a prompt the heads
            already listen to is steered less; "confidence", beta · (1 - p), p the probability of
            the likeliest next token before steering, so that a sure answer is steered less.
        direction: a fixed direction [d_model] instead of each item's own s, such as the mean of s
            over a calibration set. Prompts without audio stay unchanged under it too.
        provenance: model, data, split, seed, versions; `model` is checked on attaching.
    """

    def __repr__(self) -> str:
        heads = ", ".join(head_name(*head) for head in self.heads)
        kind = "" if self.adaptive == "constant" else f", adaptive by {self.adaptive}"
        fixed = "" if self.direction is None else ", fixed direction"
        return f"AudioSilenceSteering({heads}; beta {self.beta:g}{kind}{fixed})"

    @classmethod
    def of(
        cls,
        model: HookedAudioTransformer,
        specialists: Specialists,
        beta: float | int,
        **options: Any,
    ) -> "AudioSilenceSteering":
        """Steering by found specialists, with their provenance.

        Raises:
            ValueError: where the specialists are undefined.
        """
        if specialists.undefined is not None:
            raise ValueError(f"there are no specialist heads: {specialists.undefined}")
        data = {"calibration_ids": specialists.calibration_ids, "seed": specialists.seed}
        provenance = {"model": model_facts(model), "data": data, "versions": versions()}
        return cls(tuple(specialists.heads), beta, provenance=provenance, **options)

    def with_beta(self, beta: float | int) -> "AudioSilenceSteering":
        """The same steering with another strength."""
        return replace(self, beta=beta)

    def random_control(self, model: Any, seed: int = 0) -> "AudioSilenceSteering | None":
        """The same steering by as many heads drawn at random, none of its own.

        None for a fixed direction, which does not depend on its heads.

        Raises:
            ValueError: where too few heads are left.
        """
        if self.direction is not None:
            return None
        cfg, k = model.cfg, len(self.heads)
        (heads,) = random_heads(cfg.n_layers, cfg.n_heads, k, 1, seed, self.heads)
        return replace(self, heads=tuple(heads))

    @torch.no_grad()
    def directions(
        self,
        model: HookedAudioTransformer,
        prompt: AudioPrompt,
        silences: SilenceEmbeddings | None = None,
    ) -> Float[Tensor, "batch d_model"]:
        """s(x) of each row (or the fixed direction); exactly 0 in rows without audio.

        Args:
            silences: what was computed of silence before, to be used again.
        """
        has_audio = prompt.audio_mask.any(1, keepdim=True).to(model.device)
        if self.direction is not None:
            s = self.direction.to(model.embed.W_E).expand(len(prompt), -1)
        elif not bool(has_audio.any()):
            s = model.embed.W_E.new_zeros(len(prompt), model.cfg.d_model)
        else:
            silences = silences or SilenceEmbeddings()
            s = direction(*residuals_of_both(model, prompt, self.layers, silences), self.layers)
        return torch.where(has_audio, s, torch.zeros_like(s))

    @contextmanager
    def attach(self, model: HookedAudioTransformer) -> Iterator[HookedAudioTransformer]:
        """Inside, `generate`, `run_with_cache` and plain calls are steered.

        s is computed for every new prompt, by a run of the model as it is without any hooks; it is
        a constant to gradients. Steered are each row's last real position and what follows it over
        the same key-value cache. Bare tokens are text, so unchanged, unless inside `listening_to`.

        Raises:
            ValueError: for a model that does not fit, or while attached, for a residual stream as
                input (`start_at_layer`), which does not tell its audio.
        """
        self.check(model)
        name = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        with model.lock:
            functions = [handle.user_hook for handle in model.hook_dict[name].fwd_hooks]
            if any(isinstance(getattr(f, "__self__", None), _Attached) for f in functions):
                raise ValueError("this model is steered already; leave that steering first")
            with model.hooks(fwd_hooks=[(name, _Attached(self, model).add)]):
                yield model

    def attach_to_hf(self, hf_model: Any) -> AbstractContextManager[Any]:
        """The same steering on a plain transformers model; see `on_transformers.attached`."""
        return on_transformers.attached(self, hf_model)

    def check(self, model: Any) -> None:
        """Refuse a model that this steering does not fit.

        Raises:
            ValueError: for other sizes than it was made on, or heads that do not exist.
        """
        self.check_sizes(model_facts(model))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; all but the fixed direction is in its metadata."""
        tensors = {} if self.direction is None else {"direction": self.direction}
        facts = self.facts()
        del facts["direction"]  # it is a tensor of the file
        save(path, KIND, tensors, facts)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON holds it, a fixed direction by its hash."""
        return asdict(replace(self, direction=None)) | {"direction": as_json(self.direction)}

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: HookedAudioTransformer | None = None
    ) -> "AudioSilenceSteering":
        """Read a file that `save` wrote, checked against `model` where one is given.

        Raises:
            ValueError: for another file, or a model that the steering does not fit.
        """
        tensors, facts = load(path, KIND)
        with damage_named(path):
            facts["heads"] = tuple(tuple(head) for head in facts["heads"])
            steering = cls(**facts, direction=tensors.get("direction"))
        if model is not None:
            steering.check(model)
        return steering


class _Attached:
    """Steering while attached to one of our models: the hook at its final representation."""

    def __init__(self, steering: AudioSilenceSteering, model: HookedAudioTransformer) -> None:
        self.steering, self.model = steering, model
        self.silences = SilenceEmbeddings()
        # Of each prompt that somebody still holds, so that any of their caches can be continued.
        self.steps: MutableMapping[AudioPrompt, Float[Tensor, "batch d_model"]] = (
            WeakKeyDictionary()
        )

    @torch.compiler.disable
    def add(self, after: Float[Tensor, "batch pos d_model"], hook: Any) -> Tensor | None:
        """The final representation with the step of its prompt added."""
        info: ForwardInfo = hook.forward_info
        prompt = info.prompt
        if info.start_at_layer is not None and prompt is None:
            raise ValueError(
                "start_at_layer gives no prompt, so steering does not know its audio; leave "
                "the steering, or pass the prompt"
            )
        if getattr(prompt, "mel", None) is None or self.steering.beta == 0:
            return None
        mask = prompt.attention_mask.to(after.device)
        last, n_past = last_positions(mask), info.n_past
        if info.begins:
            self.steps[prompt] = self._step(prompt, after, last)
        elif prompt not in self.steps:
            raise ValueError(
                "the cache was filled before steering was attached; read the prompt again inside it"
            )
        places = torch.arange(n_past, n_past + after.shape[1], device=after.device)[None]
        steered = (places == last[:, None]) | (places >= mask.shape[1])
        return added(after, self.steps[prompt], steered)

    @torch.no_grad()
    def _step(
        self,
        prompt: AudioPrompt,
        after: Float[Tensor, "batch pos d_model"],
        last: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch d_model"]:
        """What is added for this prompt, from runs of the model without any hooks."""
        with self.model.without_hooks():
            s = self.steering.directions(self.model, prompt, self.silences)
            score = None
            if self.steering.adaptive == "listening":
                mass = audio_mass(audio_attention(self.model, prompt))
                score = listening_score(mass, self.steering.heads)
            at_last = at_positions(after, last)[:, None]
            return steps(
                self.steering,
                s,
                score,
                lambda: self.model.logits_of(at_last)[:, 0],
            )
