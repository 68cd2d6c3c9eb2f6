"""Text as tokens, and which tokens are taken: what a decoder has a tokenizer for."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.utilities import get_attention_mask

from lens_audio.config import DecoderConfig
from lens_audio.model.embed import Embed
from lens_audio.model.hooked_root import Lock


class TokenInput:
    """A decoder's tokenizer, and the checks of what it is given to read."""

    cfg: DecoderConfig
    embed: Embed
    lock: Lock
    _tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer; None where it came without one.

        As in HookedTransformer, a tokenizer without a BOS token gets its EOS token as one, for
        `prepend_bos=True` and for tools that ask for `bos_token_id`. It is never prepended unasked.
        """
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.cfg.tokenizer_name = getattr(tokenizer, "name_or_path", None)
        if getattr(tokenizer, "bos_token", "") is None and tokenizer.eos_token:
            tokenizer.bos_token = tokenizer.eos_token

    def set_tokenizer(self, tokenizer: Any, default_padding_side: str | None = None) -> None:
        """Use this transformers tokenizer, or none."""
        self.tokenizer = tokenizer
        if tokenizer is not None and default_padding_side is not None:
            tokenizer.padding_side = default_padding_side

    @property
    def required_tokenizer(self) -> Any:
        """The tokenizer, for what cannot do without.

        Raises:
            ValueError: where the checkpoint came without one.
        """
        if self._tokenizer is None:
            raise ValueError(
                "this model has no tokenizer: its checkpoint lacks tokenizer.json and "
                "tokenizer_config.json (or, of the first generation, qwen.tiktoken). Add them, or "
                "pass tokens"
            )
        return self._tokenizer

    def special_token(self, name: str) -> int | None:
        """The tokenizer's token of a kind, such as "pad" or "eos"; None where it has none."""
        return getattr(self._tokenizer, f"{name}_token_id", None)

    def tokenize(
        self,
        text: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> tuple[Int[Tensor, "batch pos"], Tensor]:
        """Tokens and their attention mask, on the model's device."""
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("an empty list of texts; give at least one")
        tokenizer = self.required_tokenizer
        wants_bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        if wants_bos and tokenizer.bos_token is None:
            raise ValueError("prepend_bos=True, but this tokenizer has no BOS or EOS token")
        with self.lock:  # a fast tokenizer serves one thread at a time
            adds_bos = tokenizer("")["input_ids"][:1] == [self.special_token("bos")]
            encoded = tokenizer(
                [tokenizer.bos_token + t for t in texts] if wants_bos and not adds_bos else texts,
                return_tensors="pt",
                padding=True,
                padding_side=padding_side or tokenizer.padding_side,
                add_special_tokens=wants_bos or not adds_bos,
            )
        tokens = encoded["input_ids"].long().to(self.embed.W_E.device)
        return tokens, encoded["attention_mask"].bool().to(self.embed.W_E.device)

    def padding_mask(
        self,
        tokens: Int[Tensor, "batch pos"],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> Bool[Tensor, "batch pos"] | None:
        """Where tokens are no padding, by HookedTransformer's rule; None where nothing is padding.

        Padding is the run of pad tokens that opens a row (with `padding_side`, or else the
        tokenizer's, "right": that ends it). With `prepend_bos` and a BOS token that is the pad token
        too, the last of the run is the BOS. A row of pad tokens alone is all real.
        """
        pad = self.special_token("pad")
        if pad is None:
            return None
        is_pad = tokens == pad
        if not torch.compiler.is_compiling() and not bool(is_pad.any()):
            return None
        bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        mask = get_attention_mask(self._tokenizer, tokens, bos, padding_side).bool()
        return mask | is_pad.all(1, keepdim=True)

    def check_tokens(self, tokens: Any) -> Int[Tensor, "batch pos"]:
        """Tokens on the model's device, [batch, pos]; a single row may come without its batch.

        Raises:
            ValueError: for another rank or dtype, no tokens, or tokens outside the vocabulary.
        """
        if not isinstance(tokens, Tensor):
            raise ValueError(f"expected a prompt, text or a tensor of tokens, not {type(tokens)}")
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(
                f"tokens must be integers, not {tokens.dtype}; to start from a residual stream, "
                "pass start_at_layer"
            )
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}; expected [batch, pos]")
        if not torch.compiler.is_compiling():
            low, high = (int(x) for x in tokens.aminmax())
            if low < 0 or high >= self.cfg.d_vocab:
                raise ValueError(
                    f"token {low if low < 0 else high} is outside the vocabulary of {self.cfg.d_vocab}"
                )
        return tokens.long().to(self.embed.W_E.device)
