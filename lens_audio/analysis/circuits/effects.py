"""What the nodes of a pair's runs write straight into the logits, and where heads listen."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis.attention import audio_attention
from lens_audio.analysis.direct_attribution import head_attribution_by_source, mlp_attribution
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt


@dataclass(frozen=True)
class Effects:
    """Of one pair, what was heard and written; lists are of the clean and the corrupted run."""

    attention: Float[Tensor, "layer head audio_token"]  # clean, from the last position
    from_audio: list[Float[Tensor, "layer head"]]
    from_text: list[Float[Tensor, "layer head"]]
    mlps: list[Float[Tensor, " layer"]]
    totals: list[float]  # the logit, or the logit difference


@torch.no_grad()
def effects_of(
    model: HookedAudioTransformer, pair: Pair, answer: int, instead: int | None = None
) -> Effects:
    """Direct effects of a pair of one row on logit(answer) - logit(instead), of tokens by number.

    Args:
        instead: without it, the effects are on logit(answer).
    """
    tokens = [answer] if instead is None else [answer, instead]
    right, *wrong = model.tokens_to_residual_directions(torch.tensor(tokens))
    toward = right - wrong[0] if wrong else right

    def total(prompt: AudioPrompt) -> float:
        right, *wrong = model(prompt, logits_to_keep=1)[0, -1, tokens].tolist()
        return right - sum(wrong)

    prompts = (pair.clean, pair.corrupted)
    by_source = [head_attribution_by_source(model, each, toward) for each in prompts]
    return Effects(
        attention=audio_attention(model, pair.clean)[0].cpu(),
        from_audio=[each["audio"][0].cpu() for each in by_source],
        from_text=[each["text"][0].cpu() for each in by_source],
        mlps=[mlp_attribution(model, each, toward)[0].cpu() for each in prompts],
        totals=[total(each) for each in prompts],
    )
