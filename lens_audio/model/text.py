"""TransformerLens's text helpers, over the checkpoint's own tokenizer."""

import random
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.model.decoder import Decoder
from lens_audio.model.kv_cache import KeyValueCache

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
        """Text to tokens, [batch, pos].

        The Qwen tokenizers have no BOS token, so none is prepended by default. With
        `prepend_bos=True` it is the EOS token, as in HookedTransformer.
        """
        tokens, _ = self.tokenize(input, prepend_bos, padding_side)
        tokens = tokens[:, : self.cfg.n_ctx] if truncate else tokens
        return tokens if move_to_device else tokens.cpu()

    def to_string(self, tokens: TokensLike) -> str | list[str]:
        """Tokens of rank 0 or 1 to a string, of rank 2 to a list of strings."""
        ids = torch.as_tensor(tokens)
        if ids.ndim > 2:
            raise ValueError(f"tokens of rank {ids.ndim}; rank 0, 1 or 2 can be decoded")
        if ids.ndim == 2:
            return self.required_tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
        return self.required_tokenizer.decode(ids, clean_up_tokenization_spaces=False)

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
        return self.required_tokenizer.batch_decode(singles, clean_up_tokenization_spaces=False)

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
        tokens = (
            self.to_tokens(input, prepend_bos, padding_side) if isinstance(input, str) else input
        )
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

    def input_to_embed(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
        past_kv_cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor | None, None, Tensor | None]:
        """What enters the first block for a prompt, text, texts or tokens, as HookedTransformer's.

        Returns:
            The residual stream [batch, pos, d_model], for `start_at_layer=0`; the tokens; None, where
            HookedTransformer has shortformer's positions; the attention mask, None without padding.
        """
        with self.lock:
            start = self.embed_input(
                input, attention_mask, past_kv_cache, prepend_bos, padding_side
            )
            resid = self.hook_embed(start.resid)
        return resid, start.tokens, None, start.attention_mask

    def get_residual(
        self,
        embed: Float[Tensor, "batch pos d_model"],
        pos_offset: int = 0,
        prepend_bos: bool | None = None,
        attention_mask: Tensor | None = None,
        tokens: Tensor | None = None,
        return_shortformer_pos_embed: bool = True,
        device: Any = None,
    ) -> Any:
        """The residual stream of token embeddings: themselves, as positions are rotary here.

        Returns:
            With `return_shortformer_pos_embed`, as HookedTransformer, a pair with None.
        """
        resid = embed if device is None else embed.to(device)
        return (resid, None) if return_shortformer_pos_embed else resid

    def sample_datapoint(
        self,
        tokenize: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> str | Int[Tensor, "1 pos"]:
        """A random text of `model.dataset`, or its tokens.

        Raises:
            ValueError: for a model without `dataset`. These checkpoints' training data is not public,
                so none is loaded unasked.
        """
        dataset = getattr(self, "dataset", None)
        if dataset is None:
            raise ValueError(
                "this model has no dataset to sample from; set model.dataset to one whose rows have "
                'a "text", such as transformer_lens.utilities.get_dataset("pile")'
            )
        text = dataset[random.randrange(len(dataset))]["text"]
        return self.to_tokens(text, prepend_bos, padding_side) if tokenize else text
