"""Steering: directions added to the residual stream, found, calibrated, applied and kept; and its
rival, contrastive decoding."""

from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.audio_silence.calibrate import Calibration, calibrate
from lens_audio.steering.audio_silence.controls import report
from lens_audio.steering.audio_silence.steering_report import SteeringReport
from lens_audio.steering.coefficient_sweep import CoefficientSweep, coefficient_sweep
from lens_audio.steering.contrastive_calibration import (
    ContrastiveCalibration,
    calibrate_contrastive,
)
from lens_audio.steering.contrastive_decoding import ContrastiveDecoding, contrastive
from lens_audio.steering.knockout import Backups, KnockOut, find_backups, knock_out
from lens_audio.steering.saved import load_steering
from lens_audio.steering.vectors import SteeringVector, mean_difference, pca_of_differences

__all__ = [
    "AudioSilenceSteering",
    "Backups",
    "Calibration",
    "CoefficientSweep",
    "ContrastiveCalibration",
    "ContrastiveDecoding",
    "KnockOut",
    "SteeringReport",
    "SteeringVector",
    "calibrate",
    "calibrate_contrastive",
    "coefficient_sweep",
    "contrastive",
    "find_backups",
    "knock_out",
    "load_steering",
    "mean_difference",
    "pca_of_differences",
    "report",
]
