"""Generation: greedy or sampled, cached, streamed, with the hooks firing at every step."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities import sample_logits
from transformers import RepetitionPenaltyLogitsProcessor

from lens_audio.model.activation_cache import ActivationCache
from lens_audio.model.decoder import Decoder
from lens_audio.model.hooked_root import NamesFilter
from lens_audio.model.kv_cache import KeyValueCache
from lens_audio.progress_bar import ProgressBar


@dataclass(kw_only=True)
class Decoding:
    """How the next token is chosen and when to stop; the options of `generate`."""

    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    freq_penalty: float = 0.0
    repetition_penalty: float = 1.0
    eos_token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.do_sample and self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")

    def choose(
        self, logits: Float[Tensor, "batch d_vocab"], so_far: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, " batch"]:
        """The next token of every row."""
        logits = logits.float()
        if self.repetition_penalty != 1.0:
            logits = RepetitionPenaltyLogitsProcessor(self.repetition_penalty)(so_far, logits)
        if not self.do_sample:
            return logits.argmax(-1)
        return sample_logits(
            logits,
            top_k=self.top_k,
            top_p=self.top_p,
            temperature=self.temperature,
            freq_penalty=self.freq_penalty,
            tokens=so_far if self.freq_penalty else None,
        ).to(logits.device)


class Generation(Decoder):
    """`generate` and `generate_stream` of the decoder."""

    def generate(
        self,
        input: Any,
        max_new_tokens: int = 32,
        *,
        stop_at_eos: bool = True,
        eos_token_id: Any = None,
        attention_mask: Tensor | None = None,
        use_past_kv_cache: bool = True,
        return_type: str = "input",
        return_cache: bool = False,
        names_filter: NamesFilter = None,
        verbose: bool = True,
        **decoding: Any,
    ) -> Any:
        """Continue prompts.

        Args:
            input: an AudioPrompt (left-padded if its rows differ in length), text, texts or tokens.
            max_new_tokens: stop after so many.
            stop_at_eos: end a row at its end-of-sequence token; the row is padded from there on.
            eos_token_id: one integer or several (a list, an array or a tensor); by default the
                checkpoint's.
            attention_mask: [batch, pos], zero at padding, of tokens or a prompt; by default the
                prompt's own, and for tokens as `forward` infers it.
            use_past_kv_cache: False runs the whole sequence again at every step, hooks included.
            return_type: "str", "tokens", or "input": tokens for tokens, text for anything else.
            return_cache: also give one ActivationCache of the prompt and all generated steps. The
                last generated token was never read, so it has no activations. Patterns are padded
                with zeros, scores with -inf, to the last step's keys.
            names_filter: the activations `return_cache` keeps; all by default.
            verbose: show a progress bar when it takes more than a second.
            decoding: `do_sample` (default greedy), `temperature`, `top_k`, `top_p`, `freq_penalty`,
                `repetition_penalty`.

        Returns:
            For an AudioPrompt the answer alone (what follows its `prefix`); for text and tokens the
            input with its continuation, as in HookedTransformer. One text for one row, a list for
            several.

        Raises:
            ValueError: for a right-padded batch, an empty input, or a context too long.
        """
        if return_type not in ("input", "str", "tokens"):
            raise ValueError(f"return_type must be 'input', 'str' or 'tokens', not {return_type!r}")
        options = self._decoding(stop_at_eos, eos_token_id, max_new_tokens, decoding)
        rows = self._generation_input(input, attention_mask)
        caches: list[ActivationCache] = []
        steps = self._steps(
            rows, options, use_past_kv_cache, names_filter, caches if return_cache else None
        )
        drawn: list[Tensor] = []
        bar = ProgressBar(total=max_new_tokens, disable=not verbose, delay=1, leave=False)
        with self.lock, bar:
            for token in steps:
                drawn.append(token)
                bar.update()
            bar.total = bar.n  # an answer may end early
        new = torch.stack(drawn, dim=1)
        wants_tokens = return_type == "tokens" or (
            return_type == "input" and isinstance(input, Tensor)
        )
        single = not isinstance(input, list)
        out = rows.before(new) if wants_tokens else self._decode(rows, new, single)
        if not return_cache:
            return out
        return out, join_steps(caches)

    def generate_stream(
        self,
        input: Any,
        max_new_tokens: int = 32,
        *,
        stop_at_eos: bool = True,
        eos_token_id: Any = None,
        attention_mask: Tensor | None = None,
        **decoding: Any,
    ) -> Iterator[str | list[str]]:
        """Yield the answer's text piece by piece (a list of pieces, one a row, for a batch).

        A piece holds whole characters: bytes of one not yet complete are kept back until it is, or
        the answer ends. The pieces joined are the answer of `generate`.
        """
        options = self._decoding(stop_at_eos, eos_token_id, max_new_tokens, decoding)
        rows = self._generation_input(input, attention_mask)
        new: list[Tensor] = []
        texts = shown = [""] * len(rows.tokens)
        for token in self._steps(rows, options, True, None, None):
            new.append(token)
            texts = self.tokenizer.batch_decode(torch.stack(new, 1), skip_special_tokens=True)
            ready = [text.rstrip("\ufffd") for text in texts]
            pieces = [text[len(before) :] for text, before in zip(ready, shown, strict=True)]
            shown = [before + piece for before, piece in zip(shown, pieces, strict=True)]
            if any(pieces):
                yield pieces if len(pieces) > 1 else pieces[0]
        kept_back = [text[len(before) :] for text, before in zip(texts, shown, strict=True)]
        if any(kept_back):
            yield kept_back if len(kept_back) > 1 else kept_back[0]

    @torch.no_grad()
    def _steps(
        self,
        rows: "Rows",
        options: Decoding,
        use_past_kv_cache: bool,
        names_filter: NamesFilter,
        caches: list[Any] | None,
    ) -> Iterator[Int[Tensor, " batch"]]:
        """One token a row and step; rows that have ended give the padding token."""
        past = KeyValueCache(self.cfg.n_layers) if use_past_kv_cache else None
        so_far = rows.tokens
        mask: Tensor | None
        inputs, mask = rows.extended(so_far)
        ended = torch.zeros(len(so_far), dtype=torch.bool, device=so_far.device)
        eos = torch.tensor(options.eos_token_ids, dtype=torch.long, device=so_far.device)
        for step in range(options.max_new_tokens):
            with self.lock:
                info = self.forward_info
                info.n_prompt, info.generated_from = rows.tokens.shape[1], rows.prompt
                try:
                    logits = self._next_logits(inputs, mask, past, names_filter, caches)
                finally:
                    info.n_prompt = info.generated_from = None
            token = options.choose(logits, so_far).masked_fill(ended, self._pad_token())
            yield token
            ended = ended | torch.isin(token, eos)
            if bool(ended.all()) or step + 1 == options.max_new_tokens:
                return
            so_far = torch.cat([so_far, token[:, None]], dim=1)
            inputs, mask = (token[:, None], None) if past is not None else rows.extended(so_far)

    def _next_logits(
        self,
        inputs: Any,
        attention_mask: Tensor | None,
        past: KeyValueCache | None,
        names_filter: NamesFilter,
        caches: list[Any] | None,
    ) -> Float[Tensor, "batch d_vocab"]:
        run: dict[str, Any] = {"attention_mask": attention_mask, "past_kv_cache": past}
        if caches is None:
            return self(inputs, logits_to_keep=1, **run)[:, -1]
        selects = self.names_selected(names_filter)
        wants_logits = selects("unembed.hook_in") or selects("unembed.hook_out")
        found: Any = self.run_with_cache(
            inputs, names_filter=names_filter, logits_to_keep=0 if wants_logits else 1, **run
        )
        logits, cache = found
        if caches and self.forward_info.n_past == 0:  # the whole sequence was read again
            caches[0].cache_dict.update(cache.cache_dict)
            del caches[1:]
        else:
            caches.append(cache)
        return logits[:, -1]

    def _generation_input(self, input: Any, attention_mask: Tensor | None) -> "Rows":
        prompt = input if hasattr(input, "audio_mask") else None
        if prompt is None and not isinstance(input, Tensor):
            if attention_mask is not None:
                raise ValueError("text brings its own attention_mask; leave it out, or pass tokens")
            rows = Rows(*self.tokenize(input, padding_side="left"))
        else:
            tokens = self.check_tokens(input if prompt is None else prompt.tokens)
            own = (  # the last position is continued, so padding opens a row
                self.padding_mask(tokens, padding_side="left")
                if prompt is None
                else prompt.attention_mask
            )
            mask = own if attention_mask is None else attention_mask
            mask = torch.ones_like(tokens) if mask is None else torch.atleast_2d(mask)
            if mask.shape != tokens.shape:
                raise ValueError(
                    f"attention_mask of shape {tuple(mask.shape)} for tokens of shape "
                    f"{tuple(tokens.shape)}"
                )
            mask = mask.to(self.device).bool()
            if prompt is not None and attention_mask is not None:  # as which hooks must know it
                prompt = replace(prompt, attention_mask=mask)
            rows = Rows(tokens, mask, prompt)
        if not bool(rows.attention_mask[:, -1].all()):
            raise ValueError("generation continues the last position, so pad on the left")
        return rows

    def _decoding(
        self, stop_at_eos: bool, eos: Any, max_new_tokens: int, options: dict
    ) -> Decoding:
        ids = [] if eos is None else _token_ids(eos)
        ids = ids or list(getattr(self.cfg, "eos_token_ids", []))
        eos_of_text = self.special_token("eos")
        if stop_at_eos and not ids and eos_of_text is not None:
            ids = [eos_of_text]
        return Decoding(
            max_new_tokens=max_new_tokens, eos_token_ids=ids if stop_at_eos else [], **options
        )

    def _pad_token(self) -> int:
        pad = getattr(self.cfg, "pad_token_id", None)
        pad = self.special_token("pad") if pad is None else pad
        return 0 if pad is None else pad

    def _decode(self, rows: "Rows", new: Tensor, single: bool) -> str | list[str]:
        texts = self.tokenizer.batch_decode(rows.before(new), skip_special_tokens=True)
        return texts[0] if single and len(texts) == 1 else texts


@dataclass
class Rows:
    """What is being continued: tokens and their mask, with a prompt's audio where there is one."""

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    prompt: Any = None

    def before(self, new: Int[Tensor, "batch new"]) -> Int[Tensor, "batch out"]:
        """What `generate` returns: a prompt's answer alone, else the input and its continuation."""
        return new if self.prompt is not None else torch.cat([self.tokens, new], dim=1)

    def extended(
        self, tokens: Int[Tensor, "batch longer"]
    ) -> tuple[Any, Bool[Tensor, "batch longer"]]:
        """The input and mask of a run over the input and what has been generated so far."""
        n_new = tokens.shape[1] - self.tokens.shape[1]
        mask = F.pad(self.attention_mask, (0, n_new), value=True)
        if self.prompt is None:
            return tokens, mask
        audio_mask = F.pad(self.prompt.audio_mask, (0, n_new), value=False)
        return replace(self.prompt, tokens=tokens, attention_mask=mask, audio_mask=audio_mask), mask


def _token_ids(given: Any) -> list[int]:
    """Token ids from an integer of any kind, or several."""
    try:
        ids = torch.as_tensor(given).reshape(-1)
    except (TypeError, ValueError, RuntimeError):  # a text, None in a list, …
        ids = torch.tensor([torch.nan])
    if ids.numel() and (ids.is_floating_point() or ids.dtype == torch.bool):
        raise ValueError(f"eos_token_id must be an integer, or several, not {given!r}")
    return ids.tolist()


def join_steps(caches: list[ActivationCache]) -> ActivationCache:
    """One cache from the caches of consecutive steps, joined along the position axis."""
    first, last = caches[0], caches[-1]
    joined = {}
    for name in first:
        steps = [cache[name] for cache in caches if name in cache.cache_dict]
        if name.endswith(("hook_pattern", "hook_attn_scores")) and name in last.cache_dict:
            n_keys, fill = last[name].shape[-1], 0.0 if name.endswith("pattern") else -torch.inf
            steps = [F.pad(step, (0, n_keys - step.shape[-1]), value=fill) for step in steps]
            joined[name] = torch.cat(steps, dim=2)
        else:
            joined[name] = torch.cat(steps, dim=1) if len(steps) > 1 else steps[0]
    return ActivationCache(joined, first.model, clips_by_row=first.clips_by_row)
