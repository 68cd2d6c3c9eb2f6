"""lens_audio: is this audio-language model listening, and where inside?"""

from lens_audio import hooks, testbed
from lens_audio.inputs import AudioPrompt
from lens_audio.model import (
    HookedAudioEncoder,
    HookedAudioTransformer,
    HookedTransformer,
    KeyValueCache,
)

__all__ = [
    "AudioPrompt",
    "HookedAudioEncoder",
    "HookedAudioTransformer",
    "HookedTransformer",
    "KeyValueCache",
    "hooks",
    "testbed",
]
