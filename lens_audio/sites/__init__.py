"""One grammar of places: which activation (`Site`), which layers, positions, heads and neurons.

Hook functions, sweeps, attribution, paths, circuits and lenses all read what a user writes here.
"""

from lens_audio.sites.heads import (
    Head,
    Heads,
    Layers,
    as_integers,
    check_pairs,
    counted,
    every_head,
    head_name,
    head_pairs,
    heads_by_layer,
)
from lens_audio.sites.neurons import Neurons, check_neurons, neuron_mask, no_neurons
from lens_audio.sites.positions import (
    GROUPS,
    Positions,
    TokenSequence,
    check_positions,
    check_prompt_positions,
    is_one_position,
    last_positions,
    position_indices,
    row_indices,
    select,
)
from lens_audio.sites.site import (
    NEURON_SITES,
    PATTERN_SITES,
    ROOT_SITES,
    SITES,
    HookName,
    Site,
    count_from_end,
    is_by_clip,
    nothing_selected,
    what_exists,
)

__all__ = [
    "GROUPS",
    "NEURON_SITES",
    "PATTERN_SITES",
    "ROOT_SITES",
    "SITES",
    "Head",
    "Heads",
    "HookName",
    "Layers",
    "Neurons",
    "Positions",
    "Site",
    "TokenSequence",
    "as_integers",
    "check_neurons",
    "check_pairs",
    "check_positions",
    "check_prompt_positions",
    "count_from_end",
    "counted",
    "every_head",
    "head_name",
    "head_pairs",
    "heads_by_layer",
    "is_by_clip",
    "is_one_position",
    "last_positions",
    "neuron_mask",
    "no_neurons",
    "nothing_selected",
    "position_indices",
    "row_indices",
    "select",
    "what_exists",
]
