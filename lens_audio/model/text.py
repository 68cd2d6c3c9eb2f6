"""TransformerLens's text helpers, over the checkpoint's own tokenizer."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities import get_attention_mask

from lens_audio.config import DecoderConfig
from lens_audio.model.weights import WeightViews

TokensLike = Tensor | np.ndarray | list[int]


class TextHelpers(WeightViews):
    """`to_tokens`, `to_string` and their kin. They need a tokenizer; nothing else does."""

    cfg: DecoderConfig
    _tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer.

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

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def set_tokenizer(self, tokenizer: Any, default_padding_side: str | None = None) -> None:
        """Use this transformers tokenizer."""
        self._tokenizer = tokenizer
        if default_padding_side is not None:
            tokenizer.padding_side = default_padding_side

    def tokenize(
        self,
        text: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> tuple[Int[Tensor, "batch pos"], Tensor]:
        """Tokens and their attention mask, on the model's device."""
        if self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos:
            bos = self.tokenizer.bos_token
            if bos is None:
                raise ValueError("prepend_bos=True, but this tokenizer has no BOS token")
            text = bos + text if isinstance(text, str) else [bos + t for t in text]
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("an empty list of texts; give at least one")
        with self.lock:  # a fast tokenizer serves one thread at a time
            encoded = self.tokenizer(
                texts,
                return_tensors="pt",
                padding=True,
                padding_side=padding_side or self.tokenizer.padding_side,
            )
        tokens = encoded["input_ids"].long().to(self.device)
        return tokens, encoded["attention_mask"].bool().to(self.device)

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
        pad = getattr(self._tokenizer, "pad_token_id", None)
        if pad is None:
            return None
        is_pad = tokens == pad
        if not torch.compiler.is_compiling() and not bool(is_pad.any()):
            return None
        bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        mask = get_attention_mask(self._tokenizer, tokens, bos, padding_side).bool()
        return mask | is_pad.all(1, keepdim=True)

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Text to tokens. The Qwen tokenizers have no BOS token, so none is prepended."""
        tokens, _ = self.tokenize(input, prepend_bos, padding_side)
        tokens = tokens[:, : self.cfg.n_ctx] if truncate else tokens
        return tokens if move_to_device else tokens.cpu()

    def to_string(self, tokens: TokensLike) -> str | list[str]:
        """Tokens of rank 0 or 1 to a string, of rank 2 to a list of strings."""
        ids = torch.as_tensor(tokens)
        if ids.ndim > 2:
            raise ValueError(f"tokens of rank {ids.ndim}; rank 0, 1 or 2 can be decoded")
        if ids.ndim == 2:
            return self.tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def to_str_tokens(
        self,
        input: str | TokensLike | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> Any:
        """Each token as a string; a list of texts gives a list of such lists."""
        if isinstance(input, list) and input and not isinstance(input[0], int):
            return [self.to_str_tokens(item, prepend_bos, padding_side) for item in input]
        if isinstance(input, str):
            input = self.to_tokens(input, prepend_bos, padding_side)[0]
        ids = torch.as_tensor(input).squeeze()
        if ids.ndim > 1:
            raise ValueError(f"tokens of shape {tuple(ids.shape)}; give one row at a time")
        singles = [[int(token)] for token in ids.reshape(-1)]
        return self.tokenizer.batch_decode(singles, clean_up_tokenization_spaces=False)

    def to_single_token(self, string: str) -> int:
        """The token of a string that is one token.

        Raises:
            ValueError: if it is several, naming them.
        """
        tokens = self.to_tokens(string, prepend_bos=False)[0]
        if len(tokens) != 1:
            raise ValueError(f"{string!r} is {len(tokens)} tokens: {self.to_str_tokens(tokens)}")
        return int(tokens[0])

    def to_single_str_token(self, int_token: int) -> str:
        """The string of one token."""
        return self.to_str_tokens(torch.tensor([int_token]))[0]

    def get_token_position(
        self,
        single_token: str | int,
        input: str | Tensor,
        mode: str = "first",
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> int:
        """Position of a token's first or last occurrence in a text or a row of tokens.

        Raises:
            ValueError: if it does not occur, or `mode` is neither "first" nor "last".
        """
        if mode not in ("first", "last"):
            raise ValueError(f"mode must be 'first' or 'last', not {mode!r}")
        tokens = self.to_tokens(input, prepend_bos) if isinstance(input, str) else input
        row = tokens.reshape(-1) if tokens.ndim < 2 or len(tokens) == 1 else None
        if row is None:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}; give one row")
        token = (
            self.to_single_token(single_token) if isinstance(single_token, str) else single_token
        )
        found = (row == token).nonzero().flatten()
        if len(found) == 0:
            raise ValueError(f"token {single_token!r} does not occur in the input")
        return int(found[0 if mode == "first" else -1])

    def tokens_to_residual_directions(
        self, tokens: str | int | Tensor
    ) -> Float[Tensor, "*tokens d_model"]:
        """The directions whose dot product with the residual over its `ln_final.hook_scale` is a logit.

        That is the columns of W_U times the weight of the last norm, as in a HookedTransformer with
        its norms folded in (`from_pretrained`'s default there): the parts of a residual have
        attributions that sum to the logit. A single token in whatever shape gives one [d_model]
        vector.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        ids = torch.as_tensor(tokens, device=self.W_U.device)
        return self.W_U.T[ids.squeeze() if ids.numel() == 1 else ids] * self.ln_final.w
