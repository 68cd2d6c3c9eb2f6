"""What to know before believing an answer."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lens_audio import testbed
from lens_audio.analysis import choice_probs
from lens_audio.cli.checks import checkpoint_path
from lens_audio.plots.choices import shown_mass

ENOUGH_MASS = 0.1


def probs_and_mass(log_probs: Float[Tensor, "1 choice"]) -> tuple[list[float], float]:
    """Each choice's probability among the choices, and what they all have together."""
    mass = float(log_probs[0].double().logsumexp(-1).exp())
    return choice_probs(log_probs)[0].tolist(), min(mass, 1.0)


def of_model(model: str | None, has_own_recording: bool) -> list[str]:
    """That the embedded checkpoint has never heard a recording like yours."""
    path = Path(checkpoint_path(model)).expanduser()
    if not has_own_recording or path.resolve() != testbed.checkpoint_dir().resolve():
        return []
    return [
        f"The embedded checkpoint knows {len(testbed.CLASSES)} synthetic sounds "
        f"({', '.join(testbed.CLASSES)}) and nothing else: its answer about a recording of your own "
        "means little. Choose another checkpoint with --model."
    ]


def of_answer(answer: str, choices: Sequence[str] | None) -> list[str]:
    """That the answer names none of the choices."""
    if choices is None or any(_names(answer, choice) for choice in choices):
        return []
    return [
        f"The answer is none of the choices: the model says “{answer}”. The probabilities among the "
        "choices are those of answers that it does not give."
    ]


def of_mass(mass: float | None, run: str = "") -> list[str]:
    """That the choices have little of the probability."""
    if mass is None or mass >= ENOUGH_MASS:
        return []
    return [
        f"The choices together have a probability of {shown_mass(mass)}{run}: the model nearly always "
        "says something else, so shares among the choices mean little."
    ]


def _names(answer: str, choice: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(choice.strip().lower())}(?!\w)", answer.lower()))
