"""The decoder: its parts, and the forward from text, tokens or a residual stream."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.config import DecoderConfig
from lens_audio.model.attention_context import AttentionContext
from lens_audio.model.block import TransformerBlock
from lens_audio.model.embed import Embed, Unembed
from lens_audio.model.hook_point import ForwardInfo, HookPoint
from lens_audio.model.hooked_root import HookedModule
from lens_audio.model.kv_cache import First, KeyValueCache
from lens_audio.model.norm import make_norm
from lens_audio.model.rotary import Rotary
from lens_audio.model.token_input import TokenInput

RETURN_TYPES = ("logits", "loss", "both", None)


class Output(NamedTuple):
    """What `return_type="both"` gives."""

    logits: Float[Tensor, "batch pos d_vocab"]
    loss: Tensor


class Embedded(NamedTuple):
    """The start of a forward: the residual stream and what later steps need to know of the input."""

    resid: Float[Tensor, "batch pos d_model"]
    tokens: Int[Tensor, "batch pos"] | None
    attention_mask: Bool[Tensor, "batch pos"] | None
    audio_mask: Bool[Tensor, "batch pos"] | None = None
    clips_by_row: list[range] | None = None
    prompt: Any = None  # the AudioPrompt that this is, if it is one
    first: First | None = None  # of a sequence that is read again


class Decoder(HookedModule, TokenInput):
    """What HookedTransformer's mixins share: the parts of a decoder and its forward."""

    cfg: DecoderConfig
    blocks: Any  # a ModuleList of TransformerBlock
    forward_info: ForwardInfo

    def __init__(self, cfg: DecoderConfig, tokenizer: Any = None) -> None:
        super().__init__()
        self.cfg = cfg
        self._tokenizer = tokenizer
        self.embed = Embed(cfg)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        self.blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.n_layers))
        self.ln_final = make_norm(cfg)
        self.unembed = Unembed(cfg)
        self.tie_weights()
        self.setup()
        self.forward_info = ForwardInfo()
        for hook_point in self.hook_points():
            hook_point.forward_info = self.forward_info

    def tie_weights(self) -> None:
        """Make the unembedding the embedding's own weights, where the config says so."""
        if self.cfg.tie_word_embeddings:
            self.unembed.lm_head.weight = self.embed.W_E

    def forward(
        self,
        input: Any = None,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KeyValueCache | Any = None,
        logits_to_keep: int = 0,
        input_ids: Int[Tensor, "batch pos"] | None = None,
    ) -> Any:
        """Run the model, as `HookedTransformer.forward` does.

        Args:
            input: text, texts, tokens [batch, pos], or with `start_at_layer` a residual stream
                [batch, pos, d_model].
            return_type: "logits" [batch, pos, d_vocab]; "loss", the mean next-token cross entropy in
                nats; "both"; or None.
            loss_per_token: the loss of each position, [batch, pos - 1].
            start_at_layer: first block to run, negative counts from the end.
            tokens: the targets of the loss where `start_at_layer` is given.
            attention_mask: [batch, pos], zero at padding, on either side. Tokens without one are
                padded where HookedTransformer takes them to be: in the run of pad tokens that opens
                a row (that ends it, if `padding_side` or else the tokenizer's is "right"). Pass a
                mask where such a token is a real one. A row of nothing else is all real.
            stop_at_layer: the block before which to stop and return the residual stream.
            past_kv_cache: keys and values of the positions before these; it grows unless frozen.
            logits_to_keep: only the logits of that many last positions are computed; 0 means all.
            input_ids: transformers' name for tokens, in the place of `input`.

        Raises:
            ValueError: for tokens outside the vocabulary, layers out of range, too long a context.
        """
        if (input is None) == (input_ids is None):
            raise ValueError("give one input: a prompt, text, tokens, or tokens as input_ids")
        input = input_ids if input is None else input
        past = past_kv_cache
        if past is not None and not isinstance(past, KeyValueCache):
            raise ValueError(
                f"past_kv_cache is a {type(past).__name__}, whose keys are not those that this model "
                "keeps (they are rotated here): use lens_audio.KeyValueCache, as in "
                "`la.KeyValueCache.init_cache(model.cfg)`"
            )
        if return_type not in RETURN_TYPES:
            raise ValueError(f"return_type must be one of {RETURN_TYPES}, not {return_type!r}")
        with self._told_to_hooks(), nullcontext() if past is None else past.kept_on_failure():
            if start_at_layer is None:
                start = self.embed_input(input, attention_mask, past, prepend_bos, padding_side)
            else:
                start = self._start_from(input, tokens, attention_mask, past)
            resid = self._run_blocks(start, start_at_layer, stop_at_layer, past)
            n_new = start.resid.shape[1]  # a sequence that was read again gives its past, too
            if stop_at_layer is not None:
                return resid[:, -n_new:]
            resid = self.ln_final(resid)
            if return_type is None:
                return None
            wants_loss = return_type in ("loss", "both")
            if logits_to_keep and not wants_loss:
                if not 0 < logits_to_keep <= n_new:
                    raise ValueError(
                        f"logits_to_keep={logits_to_keep} of {n_new} positions; 0 keeps all"
                    )
                resid = resid[:, -logits_to_keep:]
            logits = self.unembed(resid)[:, -n_new:]
            if not wants_loss:
                return logits
            loss = self.loss_fn(
                logits, start.tokens, start.attention_mask, loss_per_token, start.audio_mask
            )
            return loss if return_type == "loss" else Output(logits, loss)

    @contextmanager
    def _told_to_hooks(self) -> Iterator[None]:
        """What hooks are told of this forward; of the outer one again after one that a hook ran."""
        info = self.forward_info
        outer = vars(info).copy() if info.in_progress else {"in_progress": False}
        info.in_progress = True
        try:
            yield
        finally:
            vars(info).update(outer)

    def logits_of(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of a final residual stream: the last norm and the unembedding."""
        with self.lock:
            return self.unembed(self.ln_final(resid))

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"] | None,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        per_token: bool = False,
        audio_mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Tensor:
        """Next-token cross entropy in nats over real text tokens.

        Padding and audio placeholders are no targets (zero in the per-token form): the sound's
        tokens stand in for embeddings and are nothing a model could predict.
        """
        if tokens is None:
            raise ValueError("the loss needs tokens: pass tokens= together with start_at_layer")
        losses = F.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(),
            tokens[:, 1:].to(logits.device),
            reduction="none",
        )
        is_target = torch.ones_like(losses, dtype=torch.bool)
        if attention_mask is not None:
            is_target = attention_mask[:, :-1] & attention_mask[:, 1:]
        if audio_mask is not None:
            is_target = is_target & ~audio_mask[:, 1:]
        losses = losses.masked_fill(~is_target, 0.0)
        if per_token:
            return losses
        if not bool(is_target.any()):
            raise ValueError("no position has a next text token to predict, so there is no loss")
        return losses.sum() / is_target.sum()

    def embed_input(
        self,
        input: Any,
        attention_mask: Tensor | None,
        past_kv_cache: KeyValueCache | None,
        prepend_bos: bool | None,
        padding_side: str | None,
    ) -> Embedded:
        """The start of a forward of text, texts or tokens; a model that reads more overrides it.

        Args: as of `forward`.
        """
        is_texts = isinstance(input, list) and all(isinstance(text, str) for text in input)
        if isinstance(input, str) or is_texts:
            input, attention_mask = self.tokenize(input, prepend_bos, padding_side)
        tokens = self.check_tokens(input)
        if attention_mask is None and (past_kv_cache is None or not past_kv_cache.length):
            attention_mask = self.padding_mask(tokens, prepend_bos, padding_side)
        mask = self.mask_of_new(attention_mask, tokens, past_kv_cache)
        return Embedded(self.embed(tokens), tokens, mask)

    def prompt_of(self, input: Any) -> Any:
        """The AudioPrompt that an input is or stands for; None where it has none."""
        return input if hasattr(input, "audio_mask") else None

    def _start_from(
        self,
        resid: Tensor,
        tokens: Tensor | None,
        attention_mask: Tensor | None,
        past_kv_cache: KeyValueCache | None,
    ) -> Embedded:
        if not (isinstance(resid, Tensor) and resid.ndim == 3 and resid.is_floating_point()):
            raise ValueError(
                "start_at_layer needs a residual stream [batch, pos, d_model] as input"
            )
        if resid.shape[-1] != self.cfg.d_model:
            raise ValueError(
                f"the residual stream has width {resid.shape[-1]}, not {self.cfg.d_model}"
            )
        mask = self.mask_of_new(attention_mask, resid, past_kv_cache)
        return Embedded(resid.clone(), tokens, mask)  # hooks and caches must not have the caller's

    def _run_blocks(
        self,
        start: Embedded,
        start_at_layer: int | None,
        stop_at_layer: int | None,
        past_kv_cache: KeyValueCache | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        n_layers = self.cfg.n_layers
        for name, layer in (("start_at_layer", start_at_layer), ("stop_at_layer", stop_at_layer)):
            if layer is not None and not -n_layers <= layer <= n_layers:
                raise ValueError(f"{name}={layer}; this model has {n_layers} layers")
        past, n_run = past_kv_cache, len(range(n_layers)[:stop_at_layer])
        if past is not None and not past.frozen and n_run < len(past.entries):
            raise ValueError("stop_at_layer would fill only some layers of the cache; freeze() it")
        resid, mask = start.resid, start.attention_mask
        n_past = past.length if past is not None else 0
        if n_past + resid.shape[1] > self.cfg.n_ctx:
            raise ValueError(
                f"{n_past + resid.shape[1]} positions; this model's context is {self.cfg.n_ctx}. "
                "Shorten the text or the audio"
            )
        rotary = Rotary.of(self.cfg)
        if past is not None:
            new = mask if mask is not None else resid.new_ones(resid.shape[:2], dtype=torch.bool)
            whole = rotary.whole(past, resid, new)
            if whole is not None:
                again = Embedded(whole[0], None, whole[1], first=past.first)
                return self._read_again(again, start_at_layer, stop_at_layer, past)
            mask = past.append_attention_mask(new)
        first = self._first(start, past)
        info = self.forward_info
        info.n_past, info.n_total, info.attention_mask = n_past, n_past + resid.shape[1], mask
        info.n_first, info.audio_mask = first.n_positions, first.audio_mask
        info.prompt = first.prompt if info.generated_from is None else info.generated_from
        info.start_at_layer, info.stop_at_layer = start_at_layer, stop_at_layer
        info.clips_by_row, info.sequence = start.clips_by_row, first
        info.past_kv_cache, info.final = past, None
        if past is not None:
            rotary.keep(past, resid)
        context = AttentionContext.of(self.cfg, resid, mask, n_past)
        if start_at_layer is None:
            resid = self.hook_embed(resid)
            if info.final is not None:
                return info.final
        for layer in range(n_layers)[start_at_layer:stop_at_layer]:
            entry = past[layer] if past is not None else None
            resid = self.blocks[layer](resid, context, entry)
        return resid

    @staticmethod
    def _first(start: Embedded, past: KeyValueCache | None) -> First:
        """What is told of the forward that began this sequence; a cache keeps it."""
        if past is not None and past.first.n_positions:
            return past.first
        n_before = 0 if past is None else past.length  # of a cache that was not filled by a forward
        n_first = n_before or start.resid.shape[1]
        first = start.first or First(n_first, start.audio_mask, start.prompt)
        if past is not None and not past.frozen:
            past.first = first
        return first

    def _read_again(
        self,
        whole: Embedded,
        start_at_layer: int | None,
        stop_at_layer: int | None,
        past: KeyValueCache,
    ) -> Float[Tensor, "batch total d_model"]:
        """Run the past and the new positions as one sequence, which the cache holds afterwards."""
        fresh = None if past.frozen else KeyValueCache(len(past.entries))
        resid = self._run_blocks(whole, start_at_layer, stop_at_layer, fresh)
        if fresh is not None:
            past.replace_by(fresh)
        return resid

    def _apply(self, *args: Any, **kwargs: Any) -> "Decoder":
        """What `.to`, `.half`, `.cuda` and their kin do, with the config told of it."""
        with self.lock:  # not amid the run of another thread
            super()._apply(*args, **kwargs)
        weight = self.embed.W_E
        for cfg in (self.cfg, getattr(self.cfg, "audio", None)):
            if cfg is not None:
                cfg.device, cfg.dtype = str(weight.device), weight.dtype
        return self

    def mask_of_new(
        self, attention_mask: Tensor | None, x: Tensor, past_kv_cache: KeyValueCache | None
    ) -> Bool[Tensor, "batch pos"] | None:
        """The attention mask of the new positions x; one that covers the past too is cut to them.

        Raises:
            ValueError: for a mask of another shape.
        """
        if attention_mask is None:
            return None
        n_past = past_kv_cache.length if past_kv_cache is not None else 0
        if n_past and attention_mask.shape[-1] == n_past + x.shape[1]:
            attention_mask = attention_mask[:, n_past:]
        if attention_mask.shape != x.shape[:2]:
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)} for an input of shape "
                f"{tuple(x.shape[:2])}"
            )
        return attention_mask.to(x.device).bool()
