"""What is asked of a model: where it listens, what carries its answer, and what it would answer."""

from lens_audio.analysis import (
    attribution,
    circuit,
    circuits,
    corruptions,
    metrics,
    patching,
    path_patching,
    perturbation,
    robustness,
)
from lens_audio.analysis.attention import (
    audio_attention,
    audio_mass,
    entropy,
    head_pattern,
    peak_time,
    top_heads,
)
from lens_audio.analysis.circuit import Circuit, CircuitTest
from lens_audio.analysis.cross_layer import back_patch, patchscope
from lens_audio.analysis.direct_attribution import head_attribution_by_source, mlp_attribution
from lens_audio.analysis.listening import find_specialists, listening_score
from lens_audio.analysis.listening_over_answer import ListeningOverAnswer, listening_over_answer
from lens_audio.analysis.logit_lens import encoder_lens, logit_lens
from lens_audio.analysis.patching import PatchingResult
from lens_audio.analysis.vocabulary import nearest_tokens
from lens_audio.data.answers import choice_log_probs, choice_probs, next_token_probs

__all__ = [
    "Circuit",
    "CircuitTest",
    "ListeningOverAnswer",
    "PatchingResult",
    "attribution",
    "audio_attention",
    "audio_mass",
    "back_patch",
    "choice_log_probs",
    "choice_probs",
    "circuit",
    "circuits",
    "corruptions",
    "encoder_lens",
    "entropy",
    "find_specialists",
    "head_attribution_by_source",
    "head_pattern",
    "listening_over_answer",
    "listening_score",
    "logit_lens",
    "metrics",
    "mlp_attribution",
    "nearest_tokens",
    "next_token_probs",
    "patching",
    "patchscope",
    "path_patching",
    "peak_time",
    "perturbation",
    "robustness",
    "top_heads",
]
