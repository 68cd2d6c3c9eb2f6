"""What is asked of a model: where it listens, and what it would answer."""

from lens_audio.analysis.answers import choice_log_probs, choice_probs, top_next_tokens
from lens_audio.analysis.attention import audio_attention, audio_mass, entropy, peak_time, top_heads

__all__ = [
    "audio_attention",
    "audio_mass",
    "choice_log_probs",
    "choice_probs",
    "entropy",
    "peak_time",
    "top_heads",
    "top_next_tokens",
]
