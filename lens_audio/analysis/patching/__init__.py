"""Activation patching sweeps: which layer, position, time or head carries the answer?

Two engines with the same answer. `naive` runs the whole model for every cell. `fast`, the default,
runs only what a patch can change: the layers from its own on, at its positions and later ones
(causal masking makes that exact), over the keys and values that the rest of the prompt left behind.
"""

from lens_audio.analysis.patching import attribution, paths
from lens_audio.analysis.patching.cells import neuron_blocks
from lens_audio.analysis.patching.positions import positions_by, time_windows, token_groups
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.analysis.patching.sweeps import sweep, sweep_steps

__all__ = [
    "PatchingResult",
    "attribution",
    "neuron_blocks",
    "paths",
    "positions_by",
    "sweep",
    "sweep_steps",
    "time_windows",
    "token_groups",
]
