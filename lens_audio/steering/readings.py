"""The former place and name of `item_activations`; it stays here for one release."""

from lens_audio.steering.audio_silence.item_activations import item_activations as read

__all__ = ["read"]
