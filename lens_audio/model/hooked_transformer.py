"""HookedTransformer: TransformerLens's class of that name, ported for the Qwen audio decoders."""

from lens_audio.model.generation import Generation
from lens_audio.model.text import TextHelpers
from lens_audio.model.weights import WeightViews


class HookedTransformer(Generation, TextHelpers, WeightViews):
    """A decoder with HookedTransformer's hook points, names, shapes and methods; runs alone on text."""
