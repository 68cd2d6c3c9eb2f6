"""Contrastive decoding: the logits are led away from those of another prompt.

    logits(x) <- (1 + alpha) · logits(x) - alpha · logits(other)

at the last prompt position and at every generated token, which both sides read. `other` is the
prompt over silence of equal length (Audio-Aware Decoding, arXiv 2506.07233), over white noise, without
a caption in its text (arXiv 2606.05161), or any other prompt. The plausibility cut-off is that of Li et
al., "Contrastive Decoding: Open-ended Text Generation as Optimization", arXiv 2210.15097.
"""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import LogitsProcessor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import at_positions
from lens_audio.fingerprint import of_prompt
from lens_audio.inputs import AudioPrompt
from lens_audio.model.hook_point import ForwardInfo
from lens_audio.model.kv_cache import First, KeyValueCache
from lens_audio.model.shared_prefix import joined
from lens_audio.sites import last_positions
from lens_audio.steering import contrastive_on_transformers
from lens_audio.steering.audio_silence.direction import over_silence
from lens_audio.steering.audio_silence.silent_prefixes import (
    SilentPrefixes,
    is_mostly_shared,
    prefill_silence,
)
from lens_audio.steering.captions import Caption, captioned_rows, without_caption
from lens_audio.steering.contrastive_settings import ContrastiveSettings

EMBEDDED, LOGITS = "hook_embed", "unembed.hook_out"


@dataclass(frozen=True, eq=False, repr=False)
class ContrastiveDecoding(ContrastiveSettings):
    """What a prompt is contrasted with, and how much; see `contrastive`."""

    def facts(self) -> dict[str, Any]:
        """All of it as JSON holds it; a prompt by the hashes of its tensors."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        is_prompt = isinstance(self.against, AudioPrompt)
        caption = self.caption
        return own | {
            "against": of_prompt(self.against) if is_prompt else self.against,
            "caption": caption.pattern if isinstance(caption, re.Pattern) else caption,
        }

    def other(self, prompt: AudioPrompt) -> AudioPrompt:
        """What a prompt is contrasted with.

        Raises:
            ValueError: for a prompt that tells too little to make it, or has other rows.
        """
        if self.against == "silence":
            return prompt.silenced()
        if self.against == "noise":
            return prompt.over_noise(self.seed)
        if self.against == "without_text":
            assert self.caption is not None
            return without_caption(prompt, self.caption)
        assert isinstance(self.against, AudioPrompt)
        if len(self.against) != len(prompt):
            raise ValueError(
                f"the prompt has {len(prompt)} rows and the one it is contrasted with "
                f"{len(self.against)}; give one with as many"
            )
        return self.against

    @contextmanager
    def attach(self, model: HookedAudioTransformer) -> Iterator[HookedAudioTransformer]:
        """Inside, `generate`, `run_with_cache` and plain calls give contrastive logits.

        Changed are those of each row's last real position and of what follows it over the same
        key-value cache. The other side is run by the model as it is without any hooks; it is a
        constant to gradients. What follows the prompt is read in one batch of both sides where no
        other hook is set and no gradient wanted. Bare tokens are text, so unchanged, unless inside
        `listening_to`; against silence and noise so are prompts without audio, to the bit.

        Raises:
            ValueError: if one is attached already; while attached, for a residual stream as input
                (`start_at_layer`), for a cache that was filled before, and what `other` raises.
        """
        with model.lock:
            functions = [handle.user_hook for handle in model.hook_dict[EMBEDDED].fwd_hooks]
            if any(isinstance(getattr(f, "__self__", None), _AttachedContrast) for f in functions):
                raise ValueError("contrastive decoding is attached already; leave that first")
            attached = _AttachedContrast(self, model)
            with model.hooks([(EMBEDDED, attached.read), (LOGITS, attached.contrast)]):
                yield model

    def attach_to_hf(self, hf_model: Any) -> AbstractContextManager[Any]:
        """The same on a plain transformers model; see `contrastive_on_transformers.attached`."""
        return contrastive_on_transformers.attached(self, hf_model)

    def logits_processor(self, hf_model: Any, inputs: Mapping[str, Any]) -> LogitsProcessor:
        """For `hf_model.generate(**inputs, logits_processor=[...])`, instead of attaching.

        Args:
            inputs: the keyword arguments that the processor made, left-padded.

        Raises:
            ValueError: for another model, anything but silence to be contrasted with, or inputs
                without tokens.
        """
        return contrastive_on_transformers.ContrastiveLogitsProcessor(self, hf_model, inputs)


def contrastive(
    alpha: float | int = 1.0,
    against: str | AudioPrompt = "silence",
    *,
    caption: Caption | None = None,
    plausibility: float | int = 0.0,
    seed: int = 0,
) -> ContrastiveDecoding:
    """Contrastive decoding, used as `with contrastive().attach(model): model.generate(prompt)`.

        logits(x) <- (1 + alpha) · logits(x) - alpha · logits(other)

    Args:
        alpha: how much of the other prompt's logits is taken away; 0 changes nothing. Against a prompt
            or without a caption it may be below 0, which leads towards the other prompt: against
            "without_text", an alpha above 0 strengthens the caption, -1 gives the answer without it,
            and below -1 the answer is led away from what the caption says.
        against: the other prompt. "silence", digital silence as long as each clip (Audio-Aware
            Decoding, arXiv 2506.07233); "noise", white noise of each clip's root mean square;
            "without_text", the same audio without the caption (arXiv 2606.05161); or a prompt with
            as many rows.
        caption: of "without_text": the exact part of each row's text that is taken away, or a list
            of them, one a row; or a text with the slot {caption}, such as "A note says: {caption}. ",
            or a compiled regular expression: rows that it does not match are left unchanged.
        plausibility: tokens whose probability under the plain prompt is below this share of the
            likeliest token's cannot be chosen: their logit is -inf. 0 cuts nothing off.
        seed: of the noise, drawn anew for each clip, so that a clip's is the same in any batch.

    Raises:
        ValueError: for a setting out of its range.
    """
    return ContrastiveDecoding(alpha, against, caption, plausibility, seed)


class _AttachedContrast:
    """Contrastive decoding while attached to a model: two hooks, and the other side's caches."""

    def __init__(self, settings: ContrastiveDecoding, model: HookedAudioTransformer) -> None:
        self.settings, self.model = settings, model
        self.prefixes = SilentPrefixes()
        # Of each cache that somebody still holds, the other side's, with its prompt's positions.
        self.caches: MutableMapping[First, tuple[KeyValueCache, int]] = WeakKeyDictionary()
        # While both sides are read in one batch, the cache of both; theirs are parts of it.
        self.of_both: MutableMapping[First, KeyValueCache] = WeakKeyDictionary()
        self.changed: Bool[Tensor, "batch pos"] | None = None  # in the forward in progress
        # The other side's at these positions; None where it stands below this side's rows.
        self.final: Float[Tensor, "batch pos d_model"] | None = None

    @torch.compiler.disable
    def read(self, entered: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
        """Run the other side over what this forward reads."""
        info: ForwardInfo = hook.forward_info
        self.changed = None
        prompt, sequence, n_past = info.prompt, info.sequence, info.n_past
        if not self.settings.acts or prompt is None:
            return
        rows = self._rows(prompt)
        if not bool(rows.any()):
            return
        mask = prompt.attention_mask.to(entered.device)
        n_prompt, last = mask.shape[1], last_positions(mask)
        places = torch.arange(n_past, info.n_total, device=entered.device)[None]
        changed = (places == last[:, None]) | (places >= n_prompt)
        changed &= rows.to(changed.device)[:, None]
        if n_past >= n_prompt and self._is_alone(info):
            info.final = self._read_both(entered, info, self._past(sequence, n_past - n_prompt))
            self.changed, self.final = changed, None
            return
        self.of_both.pop(sequence, None)
        n_read = max(n_prompt - n_past, 0)  # of the prompt, in this forward
        new = entered[:, n_read:].detach()
        new_mask = (
            None if info.attention_mask is None else info.attention_mask[:, n_past + n_read :]
        )
        final = torch.zeros_like(entered)
        with torch.no_grad(), self.model.without_hooks():
            if n_past == 0:
                final[torch.arange(len(last)), last] = self._begin(sequence, prompt)
            if new.shape[1]:
                past = self._past(sequence, n_past + n_read - n_prompt)
                final[:, n_read:] = self._final(
                    new, start_at_layer=0, attention_mask=new_mask, past_kv_cache=past
                )
        self.changed, self.final = changed, final

    @torch.compiler.disable
    def contrast(self, logits: Float[Tensor, "batch pos d_vocab"], hook: Any) -> Tensor | None:
        """The logits, led away from the other side's."""
        info: ForwardInfo = hook.forward_info
        if not self.settings.acts or not info.in_progress:  # `logits_of` alone is of no prompt
            return None
        if info.start_at_layer is not None:
            raise ValueError(
                "start_at_layer gives no prompt, so contrastive decoding has none to contrast; "
                "leave it, or pass the prompt"
            )
        if self.changed is None:
            return None
        kept = slice(-logits.shape[1], None)  # those of `logits_to_keep`
        changed = self.changed[:, kept]
        if self.final is None:
            logits, below = logits.chunk(2)
            other = below[changed]
        else:
            with torch.no_grad(), self.model.without_hooks():
                other = self.model.logits_of(self.final[:, kept][changed][None])[0]
        # A copy, as hooks are given.
        logits[changed] = self.settings.led_away(logits[changed], other).to(logits)
        return logits

    def _is_alone(self, info: ForwardInfo) -> bool:
        """Whether nobody else sees or changes this forward, so that one batch may read both sides."""
        past, points = info.past_kv_cache, self.model.hook_dict
        hooked = [point for point in points.values() if not point.is_bare]
        return (
            type(past) is KeyValueCache
            and not past.frozen
            and past.by_position.keys() == {"attention_mask"}
            and info.stop_at_layer is None
            and not torch.is_grad_enabled()
            and hooked == [points[EMBEDDED], points[LOGITS]]
            and all(len(point.fwd_hooks) == 1 and not point.bwd_hooks for point in hooked)
        )

    def _read_both(
        self, entered: Float[Tensor, "batch new d_model"], info: ForwardInfo, other: KeyValueCache
    ) -> Float[Tensor, "both new d_model"]:
        """The final residual streams of both sides over tokens after their prompts, in one batch.

        Each weight is then read once for both, which is most of what a token costs.
        """
        past, sequence, n_rows = info.past_kv_cache, info.sequence, len(entered)
        assert info.attention_mask is not None  # as over any cache
        both = self.of_both.get(sequence)
        if both is None or both.length != max(info.n_past, other.length):
            plain = copy(past)  # its mask has the new positions already
            plain.by_position = {"attention_mask": info.attention_mask[:, : info.n_past]}
            both = self.of_both[sequence] = joined([plain, other])
        mask = info.attention_mask[:, info.n_past :]
        final = self._final(  # none of the blocks has a hook
            torch.cat([entered, entered]), start_at_layer=0,
            attention_mask=torch.cat([mask, mask]), past_kv_cache=both,
        )  # fmt: skip
        other.append_attention_mask(mask)
        past.take_rows(both, slice(None, n_rows))
        other.take_rows(both, slice(n_rows, None))
        return final

    def _rows(self, prompt: AudioPrompt) -> Bool[Tensor, " batch"]:
        """Which rows have another side at all."""
        has_audio = prompt.audio_mask.any(1)
        if self.settings.caption is not None:
            return captioned_rows(prompt, self.settings.caption)
        by_audio = self.settings.against in ("silence", "noise")
        return has_audio if by_audio else torch.ones_like(has_audio)

    def _begin(self, sequence: First, prompt: AudioPrompt) -> Float[Tensor, "batch d_model"]:
        """The other side's final residual stream at the last position of its prompt."""
        if self.settings.against == "silence":
            past, at_last = self._read_silence(prompt.to(self.model.device))
        else:
            past, other = KeyValueCache(self.model.cfg.n_layers), self.settings.other(prompt)
            after = self._final(other, past_kv_cache=past)
            at_last = at_positions(after, last_positions(other.attention_mask))
        self.caches[sequence] = past, past.length
        return at_last

    def _read_silence(
        self, prompt: AudioPrompt
    ) -> tuple[KeyValueCache, Float[Tensor, "batch d_model"]]:
        """The prompt over silence: its cache, and the final residual stream at its last position."""
        if is_mostly_shared(prompt):
            silent, _ = prefill_silence(self.model, prompt, [], self.prefixes, to_the_end=True)
            assert silent is not None
            return silent.past, silent.final
        past, mask = KeyValueCache(self.model.cfg.n_layers), prompt.attention_mask
        text = self.model.embed_text(prompt.tokens, prompt.audio_mask)
        resid = over_silence(self.model, prompt, text, self.prefixes.silences)
        after = self._final(resid, start_at_layer=0, attention_mask=mask, past_kv_cache=past)
        return past, at_positions(after, last_positions(mask))

    def _past(self, sequence: First, n_before: int) -> KeyValueCache:
        """The other side's cache of its prompt and of so many tokens after it."""
        past, n_prompt = self.caches.get(sequence, (None, 0))
        if past is None or n_before < 0 or past.length < n_prompt + n_before:
            raise ValueError(
                "the cache was filled before contrastive decoding was attached, or is a copy, or "
                "was cut inside its prompt; read the prompt again"
            )
        if past.length > n_prompt + n_before:  # as the cache beside it, which was cut or frozen
            past.cut(n_prompt + n_before)
        return past

    def _final(self, input: Any, **run: Any) -> Float[Tensor, "batch pos d_model"]:
        """The final residual stream, before the last norm."""
        return self.model(input, stop_at_layer=self.model.cfg.n_layers, **run)
