"""What goes in: audio files and waveforms, prompts, and the times of audio tokens."""

from typing import TYPE_CHECKING

from lens_audio.lazy_imports import on_first_use

if TYPE_CHECKING:
    from lens_audio.inputs.audio import load_audio
    from lens_audio.inputs.build import build_prompt
    from lens_audio.inputs.layout import expand_audio_tokens
    from lens_audio.inputs.prompt import AudioPrompt
    from lens_audio.inputs.timing import (
        n_audio_tokens,
        seconds_per_token,
        token_spans,
        tokens_between,
    )

# Imported on first use, so that a benchmark's questions are read without torch.
_HOMES = {
    "AudioPrompt": "inputs.prompt",
    "build_prompt": "inputs.build",
    "expand_audio_tokens": "inputs.layout",
    "load_audio": "inputs.audio",
    "n_audio_tokens": "inputs.timing",
    "seconds_per_token": "inputs.timing",
    "token_spans": "inputs.timing",
    "tokens_between": "inputs.timing",
}

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


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
