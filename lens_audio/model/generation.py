"""Generation: greedy or sampled, cached, streamed, with the hooks firing at every step."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from transformer_lens.utilities import sample_logits
from transformers import RepetitionPenaltyLogitsProcessor

from lens_audio.model.activation_cache import ActivationCache
from lens_audio.model.decoder import Decoder
from lens_audio.model.hooked_root import NamesFilter
from lens_audio.model.kv_cache import KeyValueCache
from lens_audio.progress_bar import ProgressBar

LEFT = "generation continues the last position, so pad on the left"


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
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, not {self.temperature}")
        unused = {
            "temperature": self.temperature not in (0.0, 1.0),
            "freq_penalty": self.freq_penalty,
        }
        unused |= {"top_k": self.top_k is not None, "top_p": self.top_p is not None}
        if not self.do_sample and any(unused.values()):
            names = ", ".join(name for name, given in unused.items() if given)
            warnings.warn(
                f"{names} given, but decoding is greedy, so without effect: pass do_sample=True",
                stacklevel=4,
            )

    def choose(
        self, logits: Float[Tensor, "batch d_vocab"], so_far: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, " batch"]:
        """The next token of every row."""
        logits = logits.float()
        if self.repetition_penalty != 1.0:
            logits = RepetitionPenaltyLogitsProcessor(self.repetition_penalty)(so_far, logits)
        if not self.do_sample or self.temperature == 0:
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
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        use_past_kv_cache: bool = True,
        return_type: str = "input",
        return_cache: bool = False,
        names_filter: NamesFilter = None,
        verbose: bool = True,
        **decoding: Any,
    ) -> Any:
        """Continue prompts.

        Args:
            input: an AudioPrompt (left-padded if its rows differ in length), text, texts, tokens, or
                embeddings [batch, pos, d_model], as `input_to_embed` gives them.
            max_new_tokens: stop after so many.
            stop_at_eos: end a row at its end-of-sequence token; the row is padded from there on.
            eos_token_id: one integer or several (a list, an array or a tensor); by default the
                checkpoint's.
            attention_mask: [batch, pos], zero at padding, of tokens or a prompt; by default the
                prompt's own, and for tokens as `forward` infers it.
            prepend_bos: of text and texts; by default as `cfg.default_prepend_bos` says.
            padding_side: only "left" can be continued, and is the default.
            use_past_kv_cache: False runs the whole sequence again at every step, hooks included.
            return_type: "str", "tokens", "embeds", [batch, pos, d_model], or "input": what the input is,
                and text for a prompt.
            return_cache: also give one ActivationCache of the prompt and all generated steps. The
                last generated token was never read, so it has no activations. Patterns are padded
                with zeros, scores with -inf, to the last step's keys.
            names_filter: the activations `return_cache` keeps; all by default.
            verbose: show a progress bar when it takes more than a second.
            decoding: `do_sample` (default greedy), `temperature` (0 is greedy), `top_k`, `top_p`,
                `freq_penalty`, `repetition_penalty`. The first four act on sampling alone.

        Returns:
            For an AudioPrompt the answer alone (what follows its `prefix`); for text, tokens and
            embeddings the input with its continuation, as in HookedTransformer; embeddings have no
            tokens or text of their own, so as those it is the continuation alone. One text for one
            row, a list for several.

        Raises:
            ValueError: for a right-padded batch, an empty input, or a context too long.
        """
        types = ("input", "str", "tokens", "embeds")
        if return_type not in types:
            raise ValueError(f"return_type must be one of {types}, not {return_type!r}")
        if padding_side not in (None, "left"):
            raise ValueError(
                f"generation continues the last position, so pad on the left, not on the {padding_side}"
            )
        options = self._decoding(stop_at_eos, eos_token_id, max_new_tokens, decoding)
        rows = self._generation_input(input, attention_mask, prepend_bos)
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
        if return_type == "input":
            kind_of_tensor = "tokens" if rows.embeds is None else "embeds"
            return_type = kind_of_tensor if isinstance(input, Tensor) else "str"
        out: Any = rows.before(new)
        if return_type == "str":
            out = self._decode(out, single=not isinstance(input, list))
        elif return_type == "embeds":
            parts = [self.embed(out)] if rows.embeds is None else [rows.embeds, self.embed(out)]
            out = torch.cat(parts, dim=1)
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
        prepend_bos: bool | None = None,
        **decoding: Any,
    ) -> Iterator[str | list[str]]:
        """Yield the answer's text piece by piece (a list of pieces, one a row, for a batch).

        A piece holds whole characters: bytes of one not yet complete are kept back until it is, or
        the answer ends. The pieces joined are the answer of `generate`.
        """
        options = self._decoding(stop_at_eos, eos_token_id, max_new_tokens, decoding)
        rows = self._generation_input(input, attention_mask, prepend_bos)
        new: list[Tensor] = []
        texts = shown = [""] * len(rows.tokens)
        for token in self._steps(rows, options, True, None, None):
            new.append(token)
            texts = self.required_tokenizer.batch_decode(
                torch.stack(new, 1), skip_special_tokens=True
            )
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
        inputs, mask = rows.extended(so_far, self.embed)
        ended = torch.zeros(len(so_far), dtype=torch.bool, device=so_far.device)
        eos = torch.tensor(options.eos_token_ids, dtype=torch.long, device=so_far.device)
        for step in range(options.max_new_tokens):
            with self.lock:
                info = self.forward_info
                info.n_prompt, info.generated_from = rows.attention_mask.shape[1], rows.prompt
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
            inputs, mask = (
                (token[:, None], None) if past is not None else rows.extended(so_far, self.embed)
            )

    def _next_logits(
        self,
        inputs: Any,
        attention_mask: Tensor | None,
        past: KeyValueCache | None,
        names_filter: NamesFilter,
        caches: list[Any] | None,
    ) -> Float[Tensor, "batch d_vocab"]:
        run: dict[str, Any] = {"attention_mask": attention_mask, "past_kv_cache": past}
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            run["start_at_layer"] = 0
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

    def _generation_input(
        self, input: Any, attention_mask: Tensor | None, prepend_bos: bool | None
    ) -> "Rows":
        if isinstance(input, Tensor) and input.is_floating_point() and input.ndim == 3:
            tokens = torch.zeros(len(input), 0, dtype=torch.long, device=self.device)
            rows = Rows(tokens, torch.ones(input.shape[:2]), embeds=input.to(self.device))
        elif (prompt := self.prompt_of(input)) is not None:
            tokens, gives_input = self.check_tokens(prompt.tokens), isinstance(input, Tensor)
            rows = Rows(tokens, prompt.attention_mask, prompt, gives_input)
        elif isinstance(input, Tensor):
            tokens = self.check_tokens(input)
            mask = self.padding_mask(tokens, padding_side="left")  # its end will be continued
            rows = Rows(tokens, torch.ones_like(tokens) if mask is None else mask)
        elif attention_mask is not None:
            raise ValueError("text brings its own attention_mask; leave it out, or pass tokens")
        else:
            rows = Rows(*self.tokenize(input, prepend_bos, padding_side="left"))
        if attention_mask is not None:
            mask = torch.atleast_2d(attention_mask)
            if mask.shape != rows.attention_mask.shape:
                raise ValueError(
                    f"attention_mask of shape {tuple(mask.shape)} for an input of shape "
                    f"{tuple(rows.attention_mask.shape)}"
                )
            rows.attention_mask = mask
        rows.attention_mask = rows.attention_mask.bool().to(self.device)
        if not bool(rows.attention_mask[:, -1].all()):
            raise ValueError(LEFT)
        if rows.prompt is not None and attention_mask is not None:  # as which hooks must know it
            rows.prompt = replace(rows.prompt, attention_mask=rows.attention_mask)
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

    def _decode(self, tokens: Tensor, single: bool) -> str | list[str]:
        texts = self.required_tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts[0] if single and len(texts) == 1 else texts


@dataclass
class Rows:
    """What is being continued: tokens and their mask, with a prompt's audio where there is one.

    Of embeddings the tokens are not known, so there are none.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Shaped[Tensor, "batch input_pos"]
    prompt: Any = None
    gives_input: bool = True  # whether what is returned begins with the input
    embeds: Float[Tensor, "batch input_pos d_model"] | None = None

    def before(self, new: Int[Tensor, "batch new"]) -> Int[Tensor, "batch out"]:
        """What `generate` returns: a prompt's answer alone, else the input and its continuation."""
        return torch.cat([self.tokens, new], dim=1) if self.gives_input else new

    def extended(
        self, tokens: Int[Tensor, "batch longer"], embed: Callable[[Tensor], Tensor]
    ) -> tuple[Any, Bool[Tensor, "batch longer_input"]]:
        """The input and mask of a run over the input and what has been generated so far."""
        n_new = tokens.shape[1] - self.tokens.shape[1]
        mask = F.pad(self.attention_mask, (0, n_new), value=True)
        if self.embeds is not None:
            return torch.cat([self.embeds, embed(tokens)], dim=1), mask
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
