"""How well each method finds the heads that read the audio, where they are known.

from lens_audio.evals import localisation

card = localisation.score_checkpoints(["planted"], n=100, seed=90)   # the embedded ones, every method
card.table
localisation.score(model, truth, {"captionless": pairs}, {"mine": my_method})
"""

from lens_audio.evals.localisation.card import ScoreCard, score, score_checkpoints
from lens_audio.evals.localisation.methods import METHODS, Method

__all__ = ["METHODS", "Method", "ScoreCard", "score", "score_checkpoints"]
