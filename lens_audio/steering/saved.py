"""Steering that was saved, whatever kind it is of."""

import os
from typing import Any

from lens_audio.steering.audio_silence import AudioSilenceSteering
from lens_audio.steering.audio_silence.attach import KIND as AUDIO_SILENCE
from lens_audio.steering.storage import kind_of
from lens_audio.steering.vectors import KIND as VECTOR
from lens_audio.steering.vectors import SteeringVector

CLASSES: dict[str, type[AudioSilenceSteering] | type[SteeringVector]] = {
    AUDIO_SILENCE: AudioSilenceSteering,
    VECTOR: SteeringVector,
}


def load_steering(
    path: str | os.PathLike[str], model: Any = None
) -> AudioSilenceSteering | SteeringVector:
    """Read a file that `save` of either wrote, checked against `model` where one is given.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for another file, or a model that the steering does not fit.
    """
    kind = kind_of(path)
    if kind is None or kind not in CLASSES:
        raise ValueError(
            f"{os.fspath(path)} holds {kind or 'no steering'}; there are {', '.join(CLASSES)}"
        )
    return CLASSES[kind].load(path, model)
