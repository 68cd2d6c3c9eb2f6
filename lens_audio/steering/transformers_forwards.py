"""What hooks on a plain transformers model need to know of its forwards, which it does not tell."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lens_audio.checkpoints.hf import sizes_of
from lens_audio.model.hook_point import ForwardInfo

Seen = tuple[Tensor, Tensor | None]  # a prompt's tokens and features


class Forwards:
    """The forward in progress, as hooks of our own models are told of it.

    Generation without a cache (`use_cache=False`) reads the prompt again, with more tokens after it;
    they count as generated.
    """

    def __init__(self, hf_model: Any) -> None:
        self.audio_token_id = sizes_of(hf_model).audio_token_id
        self.info = ForwardInfo()
        self.seen: Seen | None = None

    def see(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the model.

        Raises:
            ValueError: for embeddings in the place of tokens, and a cache that was filled before.
        """
        given = arguments(module, args, kwargs)
        ids, features = given.get("input_ids"), given.get("input_features")
        if ids is None:
            raise ValueError("give input_ids: embeddings do not tell where the audio is")
        past, info = given.get("past_key_values"), self.info
        info.n_past = 0 if past is None else past.get_seq_length()
        if info.n_past and self.seen is None:
            raise ValueError(
                "the cache was filled before this was attached, so its prompt is not known: read the "
                "prompt again"
            )
        info.n_total = info.n_past + ids.shape[1]
        again = given.get("use_cache") is False and is_read_again(self.seen, ids, features)
        if info.n_past == 0 and not again:
            self.seen, info.n_first = (ids, features), info.n_total
            info.audio_mask = ids == self.audio_token_id
        mask = given.get("attention_mask")
        info.attention_mask = None if mask is None else mask.bool()
        if info.attention_mask is None:
            info.attention_mask = ids.new_ones(len(ids), info.n_total, dtype=torch.bool)


def arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A forward's arguments by name."""
    return dict(zip(signature(module.forward).parameters, args, strict=False)) | kwargs


def is_read_again(seen: Seen | None, ids: Tensor | None, features: Tensor | None) -> bool:
    """Whether a forward reads a prompt that was seen, with more tokens after it."""
    if seen is None or ids is None:
        return False
    ids_seen, features_seen = seen
    n = ids_seen.shape[1]
    if not (ids.shape[1] > n and torch.equal(ids[:, :n], ids_seen)):
        return False
    if features is None or features_seen is None:
        return features is features_seen
    return torch.equal(features, features_seen)


@contextmanager
def without_module_hooks(hf_model: nn.Module) -> Iterator[None]:
    """Inside, the model runs as if no forward hook were set on it; afterwards all are back."""
    hooks: list[Any] = [
        each
        for module in hf_model.modules()
        for each in (module._forward_pre_hooks, module._forward_hooks)
        if each
    ]
    contents = [dict(each) for each in hooks]
    for each in hooks:  # the same dictionaries, which the handles refer to
        each.clear()
    try:
        yield
    finally:
        for each, content in zip(hooks, contents, strict=True):
            each.clear()
            each.update(content)
