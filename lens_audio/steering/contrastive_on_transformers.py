"""Contrastive decoding of a plain transformers model: by forward hooks, or as a logits processor."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ReferenceType, ref

import torch
import torch.nn as nn
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from lens_audio.checkpoints.hf import model_inside, sizes_of
from lens_audio.sites import last_positions
from lens_audio.steering.audio_silence.on_transformers import SILENT_LOG_MEL
from lens_audio.steering.contrastive_settings import ContrastiveSettings
from lens_audio.steering.transformers_forwards import Forwards, arguments, without_module_hooks


@contextmanager
def attached(settings: ContrastiveSettings, hf_model: Any) -> Iterator[Any]:
    """Inside, `hf_model(...)` and `hf_model.generate(...)` give contrastive logits, against silence.

    The other side is run by hf_model without hooks, over a cache of its own. Beam search is refused,
    as it puts the rows of the cache in another order.

    Args:
        hf_model: a transformers model of a family that transformers has, such as
            `Qwen2AudioForConditionalGeneration`.

    Raises:
        ValueError: for another model, anything but silence to be contrasted with, and if one is
            attached already; while attached, for a cache that is not continued where it was left.
    """
    inside = model_inside(hf_model)
    _check_silence(settings)
    if any(
        isinstance(getattr(f, "__self__", None), _AttachedContrastToHf) for f in _hooks_of(inside)
    ):
        raise ValueError("contrastive decoding is attached already; leave that first")
    state = _AttachedContrastToHf(settings, inside)
    handles = [
        inside.register_forward_pre_hook(state.forwards.see, with_kwargs=True),
        inside.register_forward_hook(state.contrast, with_kwargs=True),
    ]
    try:
        yield hf_model
    finally:
        for handle in handles:
            handle.remove()


class ContrastiveLogitsProcessor(LogitsProcessor):
    """Contrastive decoding in `hf_model.generate(**inputs, logits_processor=[...])`.

    It reads `inputs` over silence, and then every token that was chosen. For greedy decoding and
    sampling, with or without a cache.
    """

    def __init__(
        self, settings: ContrastiveSettings, hf_model: Any, inputs: Mapping[str, Any]
    ) -> None:
        """As of `ContrastiveDecoding.logits_processor`."""
        _check_silence(settings)
        self.settings, self.hf_model = settings, model_inside(hf_model)
        self.inputs = {name: value for name, value in inputs.items() if value is not None}
        audio_token_id = sizes_of(self.hf_model).audio_token_id
        if "input_ids" not in self.inputs:
            raise ValueError(f"no input_ids among the inputs, which are {', '.join(inputs)}")
        self.has_audio: Bool[Tensor, " batch"] = (self.inputs["input_ids"] == audio_token_id).any(1)
        self.past: Any = None
        self.read: Int[Tensor, "row pos"] | None = None

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """The scores of the next token, led away from those over silence.

        Raises:
            ValueError: for other prompts than the inputs', and rows that do not continue those before.
        """
        if not self.settings.acts or not bool(self.has_audio.any()):
            return scores
        prompts = self.inputs["input_ids"]
        n_prompt, copies = prompts.shape[1], len(input_ids) // len(prompts)
        begins = input_ids.shape[1] == n_prompt
        known = prompts.repeat_interleave(copies, 0) if begins else self.read
        if known is None or not torch.equal(input_ids[:, : known.shape[1]], known):
            raise ValueError(
                "these tokens do not continue the processor's inputs, or its rows were put in another "
                "order, as beam search does; make one for each inputs, and sample or decode greedily"
            )
        other = self._begin(copies) if begins else self._go_on(input_ids)
        self.read = input_ids
        led_away = self.settings.led_away(scores, other.to(scores)).to(scores)
        has_audio = self.has_audio.repeat_interleave(copies)[:, None].to(scores.device)
        return torch.where(has_audio, led_away, scores)

    def _begin(self, copies: int) -> Float[Tensor, "row d_vocab"]:
        """Read the prompts over silence, each so many times, as generation returns sequences."""
        silent = {
            name: value.repeat_interleave(copies, 0) if isinstance(value, Tensor) else value
            for name, value in _over_silence(self.inputs).items()
        }
        self.mask = silent.get("attention_mask", torch.ones_like(silent["input_ids"]))
        return self._read(silent, past=None)

    def _go_on(self, input_ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
        new = input_ids[:, self.past.get_seq_length() :]
        self.mask = torch.cat([self.mask, torch.ones_like(new)], dim=1)
        return self._read({"input_ids": new}, self.past)

    @torch.no_grad()
    def _read(self, inputs: dict[str, Any], past: Any) -> Float[Tensor, "row d_vocab"]:
        places = (self.mask.long().cumsum(1) - 1).clamp(min=0)
        given = inputs | {
            "attention_mask": self.mask,
            "position_ids": places[:, -inputs["input_ids"].shape[1] :],
            "past_key_values": past,
        }
        with without_module_hooks(self.hf_model):
            output = self.hf_model(**given, use_cache=True, return_dict=True)
        self.past = output.past_key_values
        return output.logits[:, -1]


class _AttachedContrastToHf:
    """Contrastive decoding while attached to a transformers model."""

    def __init__(self, settings: ContrastiveSettings, hf_model: Any) -> None:
        self.settings, self.hf_model = settings, hf_model
        self.forwards = Forwards(hf_model)
        # Of the prompt read last: its cache, its last keys, and the other side's cache.
        self.own: ReferenceType[Any] | None = None
        self.last_keys = torch.empty(0)
        self.past: Any = None

    def contrast(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """After each forward: run the other side, and lead the logits away from its."""
        info, past = self.forwards.info, getattr(output, "past_key_values", None)
        assert info.audio_mask is not None
        has_audio = info.audio_mask.any(1)
        if not self.settings.acts or not bool(has_audio.any()):
            return None
        if isinstance(output, tuple):
            raise ValueError(
                "contrastive decoding needs the logits by name: leave return_dict=True"
            )
        given = _over_silence(arguments(module, args, kwargs))
        given["past_key_values"] = self._own_past(past) if info.n_past else None
        with torch.no_grad(), without_module_hooks(self.hf_model):
            other = self.hf_model(**given)
        self.past = other.past_key_values
        if past is not None:
            self.own, self.last_keys = ref(past), _keys_at(past, info.n_total - 1).clone()
        logits = output.logits.clone()
        changed = self._changed(has_audio)[:, -logits.shape[1] :].to(logits.device)
        led_away = self.settings.led_away(logits[changed], other.logits[changed])
        logits[changed] = led_away.to(logits)
        output.logits = logits
        return output

    def _own_past(self, past: Any) -> Any:
        """The other side's cache, if the model's was continued where it was left."""
        n_past = self.forwards.info.n_past
        if not (
            self.own is not None
            and self.own() is past
            and self.past.get_seq_length() == n_past
            and torch.equal(_keys_at(past, n_past - 1), self.last_keys)
        ):
            raise ValueError(
                "the cache was filled before contrastive decoding was attached, or is not the last "
                "prompt's, or its rows were cut or put in another order, as beam search does: read "
                "the prompt again, and sample or decode greedily"
            )
        return self.past

    def _changed(self, has_audio: Bool[Tensor, " batch"]) -> Bool[Tensor, "batch pos"]:
        """Which positions are contrasted, of those that this forward read."""
        info = self.forwards.info
        assert info.attention_mask is not None
        last = last_positions(info.attention_mask[:, : info.n_first])
        places = torch.arange(info.n_past, info.n_total, device=last.device)[None]
        return ((places == last[:, None]) | (places >= info.n_first)) & has_audio[:, None]


def _check_silence(settings: ContrastiveSettings) -> None:
    if settings.against == "silence":
        return
    why = {
        "noise": "they hold no waveforms to be as loud as",
        "without_text": "they hold no text to take a caption from",
    }.get(str(settings.against), "a prompt is one of this package's models")
    raise ValueError(
        'on a transformers model contrastive decoding is against="silence" alone: of its inputs, '
        f"{why}. Load the model with HookedAudioTransformer.from_hf for the others"
    )


def _over_silence(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same inputs over silence, without labels."""
    given = {name: value for name, value in inputs.items() if name != "labels"}
    if given.get("input_features") is not None:
        given["input_features"] = torch.full_like(given["input_features"], SILENT_LOG_MEL)
    return given


def _hooks_of(module: nn.Module) -> list[Any]:
    return list(module._forward_hooks.values())


def _keys_at(past: Any, position: int) -> Float[Tensor, "batch head d_head"]:
    """The last layer's keys at a position: they depend on all of a row's tokens up to there."""
    return past.layers[-1].keys[:, :, position]
