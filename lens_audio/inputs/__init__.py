"""What goes in: audio files and waveforms, prompts, and the times of audio tokens."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"lens_audio.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
