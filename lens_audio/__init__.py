"""lens_audio: is this audio-language model listening, and where inside?"""

from typing import TYPE_CHECKING

from lens_audio.lazy_imports import on_first_use

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
    "ActivationCache": "model",
    "AudioPrompt": "inputs",
    "HookedAudioEncoder": "audio_encoder",
    "HookedAudioTransformer": "audio_model",
    "HookedTransformer": "model",
    "KeyValueCache": "model",
    "explore": "explorer",
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

__getattr__, __dir__ = on_first_use(__name__, _HOMES, _ROOMS)
