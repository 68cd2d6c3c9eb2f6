"""The vocabulary as vectors of the residual stream: which tokens are near one."""

from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer

ROWS_AT_ONCE = 16384  # of the vocabulary, in float32


@torch.no_grad()
def nearest_tokens(
    model: HookedAudioTransformer,
    vector: Float[Tensor, "*vectors d_model"],
    k: int = 10,
    by: str = "unembed",
    *,
    measure: str = "cosine",
    special_tokens: bool = False,
) -> pd.DataFrame:
    """The vocabulary entries whose embedding or unembedding vectors are nearest to a vector.

    The vector is taken as it is: no norm is applied (`logit_lens` applies the last one).

    Args:
        vector: [d_model], or several, [n, d_model]: an activation, a steering direction, a feature.
        by: "unembed", the columns of W_U; or "embed", the rows of W_E.
        measure: "cosine", or "dot product", which long vectors of the vocabulary win.
        special_tokens: whether they count, such as the end of text; if there is a tokenizer.

    Returns:
        One row an entry, the nearest first: `vector` (if there are several), `rank` from 1,
        `token id`, `token` (if there is a tokenizer), and the measure under its name.

    Raises:
        ValueError: for another width, entries that are not finite, no direction for the cosine, more
            entries than there are, another matrix or measure.
    """
    matrices = {"unembed": model.unembed.W_U.T, "embed": model.embed.W_E}
    if by not in matrices or measure not in ("cosine", "dot product"):
        raise ValueError(
            f"no by={by!r} with measure={measure!r}; there are by='unembed' or 'embed', and "
            "measure='cosine' or 'dot product'"
        )
    vectors = as_vectors(model, vector).to(matrices[by].device)
    if measure == "cosine":
        if not bool(vectors.any(1).all()):
            raise ValueError("a vector of zeros has no direction, so no cosine to anything")
        vectors = F.normalize(vectors, dim=1)
    scores = []
    for rows in matrices[by].split(ROWS_AT_ONCE):
        rows = F.normalize(rows.float(), dim=1) if measure == "cosine" else rows.float()
        scores.append(vectors @ rows.T)
    wanted = _ids(model, special_tokens)
    if not 1 <= k <= len(wanted):
        raise ValueError(f"k must be from 1 to the {len(wanted)} tokens there are, not {k}")
    best = torch.cat(scores, dim=1)[:, wanted].topk(k)
    found = []
    for number, (values, places) in enumerate(zip(*best, strict=True)):
        which = {"vector": number} if vector.ndim > 1 else {}
        ids = wanted[places.cpu()]
        for rank, (value, one) in enumerate(zip(values.tolist(), ids.tolist(), strict=True), 1):
            found.append({**which, "rank": rank, **named_token(model, one), measure: value})
    return pd.DataFrame(found)


def as_vectors(model: HookedAudioTransformer, vectors: Tensor) -> Float[Tensor, "n d_model"]:
    """Vectors of the residual stream in float32, a single one as a row.

    Raises:
        ValueError: for another width, or entries that are not finite.
    """
    d_model = model.cfg.d_model
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != d_model or not len(vectors):
        raise ValueError(
            f"vectors of shape {tuple(vectors.shape)}; give [{d_model}] or [n, {d_model}]"
        )
    if not bool(vectors.isfinite().all()):
        raise ValueError("the vector has NaN or infinite entries")
    return torch.atleast_2d(vectors).detach().float()


def named_token(model: HookedAudioTransformer, token: int) -> dict[str, Any]:
    """A token's entries of a table: its id and, if there is a tokenizer, its text."""
    text = {} if model.tokenizer is None else {"token": model.to_single_str_token(token)}
    return {"token id": token, **text}


def _ids(model: HookedAudioTransformer, special_tokens: bool) -> Int[Tensor, " token"]:
    """The vocabulary's entries that are tokens; all of them where that is not known."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return torch.arange(model.cfg.d_vocab)
    ids = {one for one in tokenizer.get_vocab().values() if one < model.cfg.d_vocab}
    if not special_tokens:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        ids -= {*tokenizer.all_special_ids, *(one for one, t in added.items() if t.special)}
    return torch.tensor(sorted(ids))
