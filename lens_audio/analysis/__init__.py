"""What is asked of a model: where it listens, and what it would answer."""

from lens_audio.analysis.answers import choice_log_probs, choice_probs, next_token_probs
from lens_audio.analysis.attention import audio_attention, audio_mass, entropy, peak_time, top_heads

__all__ = [
    "audio_attention",
    "audio_mass",
    "choice_log_probs",
    "choice_probs",
    "entropy",
    "next_token_probs",
    "peak_time",
    "top_heads",
]
