"""What runs: the port."""

from lens_audio.model.activation_cache import ActivationCache
from lens_audio.model.audio_encoder import HookedAudioEncoder
from lens_audio.model.audio_transformer import HookedAudioTransformer
from lens_audio.model.decoder import HookedTransformer
from lens_audio.model.kv_cache import KeyValueCache

__all__ = [
    "ActivationCache",
    "HookedAudioEncoder",
    "HookedAudioTransformer",
    "HookedTransformer",
    "KeyValueCache",
]
