"""What is looked at: plotly figures, one function a figure, and self-contained HTML reports."""

from lens_audio.plots.choices import choice_probabilities
from lens_audio.plots.heads import head_map
from lens_audio.plots.report import write_page
from lens_audio.plots.sound import attention_over_time

__all__ = ["attention_over_time", "choice_probabilities", "head_map", "write_page"]
