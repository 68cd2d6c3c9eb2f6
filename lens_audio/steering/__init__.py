"""Steering: directions added to the residual stream, found, calibrated, applied and kept."""

from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.vectors import SteeringVector, mean_difference, pca_of_differences

__all__ = ["AudioSilenceSteering", "SteeringVector", "mean_difference", "pca_of_differences"]
