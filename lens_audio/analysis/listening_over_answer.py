"""How much a model listens at each token of the answer that it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.attention import pattern_rows
from lens_audio.analysis.listening import check_heads
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import layer_names
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Head, head_name


@dataclass(frozen=True, eq=False)
class ListeningOverAnswer:
    """The audio mass of some heads at the position that each token of an answer was chosen from."""

    tokens: list[str]
    heads: list[Head]
    mass: Float[Tensor, "token head"]  # float32, on the CPU
    text: str  # the answer

    def __repr__(self) -> str:
        first, last = float(self.scores[0]), float(self.scores[-1])
        heads = ", ".join(head_name(*head) for head in self.heads)
        return (
            f"ListeningOverAnswer({len(self.tokens)} tokens, {heads}; listening score {first:.3f} at "
            f"the first, {last:.3f} at the last)"
        )

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(index=False, float_format="%.3f")

    @property
    def scores(self) -> Float[Tensor, " token"]:
        """The listening score at each token: the mean mass over the heads."""
        return self.mass.mean(1)

    def to_dataframe(self) -> pd.DataFrame:
        """Columns token, listening_score, and the mass of each head by its name."""
        table = pd.DataFrame({"token": self.tokens, "listening_score": self.scores.tolist()})
        for number, head in enumerate(self.heads):
            table[head_name(*head)] = self.mass[:, number].tolist()
        return table

    def plot(self) -> Any:
        """The listening score over the answer, each head a thin line: a plotly figure."""
        from lens_audio.plots.answer import listening_over_tokens

        names = [head_name(*head) for head in self.heads]
        return listening_over_tokens(self.mass, self.tokens, names)


@torch.no_grad()
def listening_over_answer(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    heads: Sequence[Head],
    max_new_tokens: int = 64,
    **decoding: Any,
) -> ListeningOverAnswer:
    """Generate an answer, and give these heads' audio mass at every token of it.

    A token is chosen from the position before it: the first from the last position of the prompt.
    Models that think before they answer may listen at one and not at the other. Hooks and steerings
    set on the model act; but hooks on a layer's `hook_attn_scores` and `hook_pattern` show only in
    the layers after it, as in `audio_attention`.

    Args:
        prompt: a single prompt, with audio.
        heads: (layer, head) pairs, such as the specialists.
        max_new_tokens: the most tokens of the answer.
        decoding: options of `model.generate`.

    Raises:
        ValueError: for a batch, a prompt without audio, no heads, or heads that do not exist.
    """
    if len(prompt) != 1:
        raise ValueError(f"give one prompt, not a batch of {len(prompt)}")
    if not bool(prompt.audio_mask.any()):
        raise ValueError("the prompt has no audio to listen to")
    heads = [(int(layer), int(head)) for layer, head in heads]
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)
    layers = sorted({layer for layer, _ in heads})
    queries, keys = (layer_names(f"attn.{name}", layers) for name in ("hook_rot_q", "hook_rot_k"))
    tokens, cache = model.generate(
        prompt, max_new_tokens, return_type="tokens", return_cache=True, verbose=False,
        names_filter=[*queries, *keys], **decoding,
    )  # fmt: skip
    n_prompt, n_tokens = prompt.tokens.shape[1], tokens.shape[1]
    audio, real = prompt.audio_mask[0], prompt.attention_mask[0]
    found = {}
    for layer, query, key in zip(layers, queries, keys, strict=True):
        rot_q, rot_k = cache[query][:, n_prompt - 1 :], cache[key]
        places = torch.arange(rot_k.shape[1], device=rot_k.device)
        may_read = places <= torch.arange(n_prompt - 1, len(places), device=rot_k.device)[:, None]
        may_read[:, :n_prompt] &= real.to(may_read.device)
        rows = pattern_rows(rot_q, rot_k, may_read[None])[0]  # [head, token, key]
        found[layer] = rows[..., :n_prompt][..., audio.to(rows.device)].sum(-1).float().cpu()
    mass = torch.stack([found[layer][head] for layer, head in heads], dim=1)
    names = [str(model.to_string(token)) for token in tokens[0]]
    text = model.required_tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    return ListeningOverAnswer(names, list(heads), mass[:n_tokens], text)
