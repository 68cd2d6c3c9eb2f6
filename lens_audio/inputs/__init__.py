"""What goes in: audio files and waveforms, prompts, and the times of audio tokens."""

from lens_audio.config import n_audio_tokens
from lens_audio.inputs.audio import load_audio
from lens_audio.inputs.build import build_prompt
from lens_audio.inputs.layout import expand_audio_tokens
from lens_audio.inputs.prompt import AudioPrompt
from lens_audio.inputs.timing import (
    seconds_per_token,
    token_spans,
    tokens_between,
)

__all__ = [
    "AudioPrompt",
    "build_prompt",
    "expand_audio_tokens",
    "load_audio",
    "n_audio_tokens",
    "seconds_per_token",
    "token_spans",
    "tokens_between",
]
