"""What is looked at: plotly figures, one function a figure, and self-contained HTML reports."""

from lens_audio.plots.answer import listening_over_tokens
from lens_audio.plots.choices import answer_probabilities, choice_probabilities
from lens_audio.plots.circuit import circuit_graph
from lens_audio.plots.edges import edge_graph
from lens_audio.plots.faithfulness import faithfulness_over_size
from lens_audio.plots.heads import attribution_by_source, head_map
from lens_audio.plots.logit_lens import logit_lens_table
from lens_audio.plots.patching import patching_heatmap
from lens_audio.plots.report import write_page
from lens_audio.plots.robustness import robustness_curve
from lens_audio.plots.save import save
from lens_audio.plots.scores import score_distributions
from lens_audio.plots.sound import attention_over_time
from lens_audio.plots.steering import coefficient_curve, layer_curve, steering_curve
from lens_audio.plots.thumbnails import head_thumbnails
from lens_audio.plots.tokens import token_attention

__all__ = [
    "answer_probabilities",
    "attention_over_time",
    "attribution_by_source",
    "choice_probabilities",
    "circuit_graph",
    "coefficient_curve",
    "edge_graph",
    "faithfulness_over_size",
    "head_map",
    "head_thumbnails",
    "layer_curve",
    "listening_over_tokens",
    "logit_lens_table",
    "patching_heatmap",
    "robustness_curve",
    "save",
    "score_distributions",
    "steering_curve",
    "token_attention",
    "write_page",
]
