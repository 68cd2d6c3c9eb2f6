"""lens_audio: is this audio-language model listening, and where inside?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_audio import analysis, data, evals, hooks, plots, steering, testbed
    from lens_audio.audio_encoder import HookedAudioEncoder
    from lens_audio.audio_model import HookedAudioTransformer
    from lens_audio.explorer import explore
    from lens_audio.inputs import AudioPrompt
    from lens_audio.model import (
        ActivationCache,
        HookedTransformer,
        KeyValueCache,
    )

# Where each public name lives. It is imported on first use, so that `lens-audio --help` is quick.
_HOMES = {
    "ActivationCache": "lens_audio.model",
    "AudioPrompt": "lens_audio.inputs",
    "HookedAudioEncoder": "lens_audio.audio_encoder",
    "HookedAudioTransformer": "lens_audio.audio_model",
    "HookedTransformer": "lens_audio.model",
    "KeyValueCache": "lens_audio.model",
    "explore": "lens_audio.explorer",
}
_ROOMS = ("analysis", "data", "evals", "hooks", "plots", "steering", "testbed")

__all__ = [
    "ActivationCache",
    "AudioPrompt",
    "HookedAudioEncoder",
    "HookedAudioTransformer",
    "HookedTransformer",
    "KeyValueCache",
    "analysis",
    "data",
    "evals",
    "explore",
    "hooks",
    "plots",
    "steering",
    "testbed",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"lens_audio.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lens_audio' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
