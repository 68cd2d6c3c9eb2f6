"""TransformerLens's text helpers, over the checkpoint's own tokenizer."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.model.decoder import Decoder

TokensLike = Tensor | np.ndarray | list[int]


class TextHelpers(Decoder):
    """`to_tokens`, `to_string` and their kin. They need a tokenizer; nothing else does."""

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
        ids = torch.as_tensor(tokens, device=self.unembed.W_U.device)
        return self.unembed.W_U.T[ids.squeeze() if ids.numel() == 1 else ids] * self.ln_final.w
